package reconcile

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

type runStory struct {
	name     string
	outcomes []Outcome // of the n-th Sync; the last one stays
	wakes    []time.Duration
	takes    time.Duration // each Sync
	want     []time.Duration
}

func TestRun(t *testing.T) {
	ms := time.Millisecond
	tests := []runStory{
		{name: "settled: once a minute", outcomes: []Outcome{{}}, want: []time.Duration{0, time.Minute, 2 * time.Minute}},
		{
			name:     "unsettled: often at first",
			outcomes: []Outcome{{Unsettled: true}},
			want:     []time.Duration{0, 250 * ms, 750 * ms, 1250 * ms, 1750 * ms, 2250 * ms},
		},
		{
			name:     "settled after a while",
			outcomes: []Outcome{{Unsettled: true}, {Unsettled: true}, {}},
			want:     []time.Duration{0, 250 * ms, 750 * ms, 60750 * ms},
		},
		{
			name:     "a time to look again",
			outcomes: []Outcome{{After: 2 * time.Second}, {}},
			want:     []time.Duration{0, 2 * time.Second, 62 * time.Second},
		},
		{name: "at once", outcomes: []Outcome{{After: ms}, {}}, want: []time.Duration{0, syncApart}},
		{
			name:     "woken: at once, and hopeful again",
			outcomes: []Outcome{{Unsettled: true}},
			wakes:    []time.Duration{2 * time.Second},
			want:     []time.Duration{0, 250 * ms, 750 * ms, 1250 * ms, 1750 * ms, 2000 * ms, 2250 * ms, 2750 * ms, 3250 * ms},
		},
		{
			name:     "a burst of events is one",
			outcomes: []Outcome{{}},
			wakes:    []time.Duration{time.Second, time.Second + ms, time.Second + 2*ms, time.Second + 3*ms},
			want:     []time.Duration{0, time.Second, time.Second + syncApart, time.Minute + time.Second + syncApart},
		},
		{
			name: "woken while it runs", outcomes: []Outcome{{}}, wakes: []time.Duration{100 * ms}, takes: time.Second,
			want: []time.Duration{0, time.Second + syncApart, 62*time.Second + syncApart},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, tt.play)
	}
}

func (tt runStory) play(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		begin := time.Now()
		wake := make(chan struct{}, 1)
		for _, at := range tt.wakes {
			time.AfterFunc(at, func() {
				select {
				case wake <- struct{}{}:
				default:
				}
			})
		}
		var got []time.Duration
		Run(ctx, func(context.Context) Outcome {
			got = append(got, time.Since(begin))
			if len(got) == len(tt.want) {
				cancel()
			}
			if tt.takes > 0 {
				<-time.After(tt.takes)
			}
			return tt.outcomes[min(len(got), len(tt.outcomes))-1]
		}, wake)
		same(t, "Syncs at", tt.want, got)
	})
}

func TestRunStopsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		begin := time.Now()
		time.AfterFunc(10*time.Second, cancel)
		Run(ctx, func(context.Context) Outcome { return Outcome{} }, nil)
		if took := time.Since(begin); took != 10*time.Second {
			t.Errorf("ended after %v, want 10s", took)
		}
	})
}
