//go:build !race

package imports_test

// raceEnabled is whether the race detector is at work.
const raceEnabled = false
