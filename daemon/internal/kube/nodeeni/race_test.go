//go:build race

package nodeeni

// Sequences take ten times as long under the race detector, and races show in the first hundreds as well.
const defaultSequences = 1_000
