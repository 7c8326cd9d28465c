//go:build race

package fleet

// raceDetector: this test is built with -race.
const raceDetector = true
