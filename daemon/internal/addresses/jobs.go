package addresses

import (
	"context"
	"sync"
)

// concurrency bounds the calls under way, each about another ENI or about all. awsnode.EC2 bounds all calls.
const concurrency = 4

// jobs runs one background job for each subject at a time: a late answer delays only its own ENI.
type jobs struct {
	slots chan struct{}
	all   sync.WaitGroup
	mu    sync.Mutex
	// busy are the subjects with a job; true: there is more to do afterwards.
	busy map[subject]bool
}

func newJobs() *jobs { return &jobs{slots: make(chan struct{}, concurrency), busy: map[subject]bool{}} }

// start runs do, unless the subject has a job: then it calls again at that job's end, and also if do has done anything.
func (j *jobs) start(ctx context.Context, s subject, do func(context.Context) bool, again func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, busy := j.busy[s]; busy {
		j.busy[s] = true
		return
	}
	j.busy[s] = false
	j.all.Go(func() {
		select {
		case j.slots <- struct{}{}:
		case <-ctx.Done():
			return // nothing begins any more
		}
		done := do(ctx)
		<-j.slots
		j.mu.Lock()
		more := j.busy[s]
		delete(j.busy, s)
		j.mu.Unlock()
		if done || more {
			again()
		}
	})
}
