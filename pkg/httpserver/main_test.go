package httpserver_test

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(bothWays{m}) }

// bothWays runs all tests once with net/http's server alone, and once with the front
// before it.
type bothWays struct{ *testing.M }

func (b bothWays) Run() int {
	if code := b.M.Run(); code != 0 || testing.Short() {
		return code
	}
	withFront = true
	return b.M.Run()
}

// withFront says that connections start on the front.
var withFront bool
