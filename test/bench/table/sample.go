package table

import (
	"fmt"
	"slices"
	"time"
)

// Sample has one contender's values, one a round. The unit is the row's: milliseconds or MiB. The zero value is empty.
type Sample []float64

// Add adds a time, in milliseconds.
func (s *Sample) Add(d time.Duration) { *s = append(*s, float64(d)/float64(time.Millisecond)) }

// Quantile returns the value that a share q of the sample does not exceed (nearest rank); 0 for an empty sample.
func (s Sample) Quantile(q float64) float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// Median returns the middle value, or the mean of the two in the middle; 0 for an empty sample.
func (s Sample) Median() float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// Plus adds two samples of the same rounds, round by round.
func (s Sample) Plus(o Sample) Sample {
	out := make(Sample, min(len(s), len(o)))
	for i := range out {
		out[i] = s[i] + o[i]
	}
	return out
}

// String is "median (least … 99th percentile)".
func (s Sample) String() string {
	return fmt.Sprintf("%.2f (%.2f … %.2f)", s.Median(), s.Quantile(0), s.Quantile(0.99))
}
