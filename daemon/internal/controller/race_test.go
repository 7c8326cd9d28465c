//go:build race

package controller

// raceDetector: this test is built with -race.
const raceDetector = true
