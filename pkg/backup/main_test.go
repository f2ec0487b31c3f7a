package backup

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, pgtest.IgnoreServer()) }
