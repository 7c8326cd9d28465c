package main

import (
	"fmt"
	"slices"
	"time"
)

// sample is what was measured of one contender, one value a round. The unit is
// the row's: milliseconds or MiB.
type sample []float64

func (s *sample) add(d time.Duration) { *s = append(*s, float64(d)/float64(time.Millisecond)) }

// quantile returns the value that a share q of the sample does not exceed
// (nearest rank); 0 for an empty sample.
func (s sample) quantile(q float64) float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func (s sample) median() float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// plus adds two samples of the same rounds, round by round.
func (s sample) plus(o sample) sample {
	out := make(sample, min(len(s), len(o)))
	for i := range out {
		out[i] = s[i] + o[i]
	}
	return out
}

// String is "median (least … 90th percentile)".
func (s sample) String() string {
	return fmt.Sprintf("%.2f (%.2f … %.2f)", s.median(), s.quantile(0), s.quantile(0.9))
}
