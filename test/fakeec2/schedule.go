package fakeec2

import (
	"container/heap"
	"time"
)

// later is a change that time brings about.
type later struct {
	at  time.Time
	seq int
	do  func(at time.Time)
}

type schedule struct {
	heap laterHeap
	seq  int
}

type laterHeap []later

func (h laterHeap) Len() int { return len(h) }
func (h laterHeap) Less(i, j int) bool {
	return h[i].at.Before(h[j].at) || h[i].at.Equal(h[j].at) && h[i].seq < h[j].seq
}
func (h laterHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *laterHeap) Push(x any)   { *h = append(*h, x.(later)) } //nolint:errcheck // container/heap pushes what after gave it
func (h *laterHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// after does something at a time, or at once if that is not after now.
func (s *Server) after(now time.Time, wait time.Duration, do func(at time.Time)) {
	if wait <= 0 {
		do(now)
		return
	}
	s.due.seq++
	heap.Push(&s.due.heap, later{now.Add(wait), s.due.seq, do})
}

// tick brings about all changes that are due, and returns the time.
func (s *Server) tick() time.Time {
	now := s.cfg.Now()
	for len(s.due.heap) > 0 && !now.Before(s.due.heap[0].at) {
		next := heap.Pop(&s.due.heap).(later) //nolint:errcheck // see Push
		next.do(next.at)
	}
	return now
}

// Bucket refills with Rate tokens a second up to Size; a call takes one ("Request throttling for the Amazon EC2 API").
type Bucket struct{ Rate, Size float64 }

type bucket struct {
	tokens float64
	at     time.Time
}

// throttled takes a token for a call.
func (s *Server) throttled(action string, now time.Time) bool {
	limit, own := s.cfg.Buckets[action]
	if !own {
		var common bool
		if limit, common = s.cfg.Buckets[""]; !common {
			return false
		}
	}
	b := s.buckets[action]
	if b == nil {
		b = &bucket{limit.Size, now}
		s.buckets[action] = b
	}
	b.tokens, b.at = min(limit.Size, b.tokens+limit.Rate*now.Sub(b.at).Seconds()), now
	if b.tokens < 1 {
		return true
	}
	b.tokens--
	return false
}

// SetBuckets replaces Config.Buckets; full ones begin.
func (s *Server) SetBuckets(buckets map[string]Bucket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg.Buckets, s.buckets = buckets, map[string]*bucket{}
}
