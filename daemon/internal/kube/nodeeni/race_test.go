//go:build race

package nodeeni

// The race detector makes a sequence ten times as long; races show in the first
// hundreds as well as in ten thousand.
const defaultSequences = 1_000
