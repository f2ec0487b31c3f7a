// Package redistest starts Redis for tests, on a socket of its own. Only tests
// import it.
package redistest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/keywarden/keywarden/pkg/seal"
)

// Server is a running Redis.
type Server struct {
	URL     seal.Secret
	Client  *goredis.Client
	process *exec.Cmd
}

// startTimeout bounds how long a server may take until it answers.
const startTimeout = 20 * time.Second

// Start runs a server until the test ends. Where Redis is not installed the test is
// skipped, but fails when CI is set.
func Start(tb testing.TB) *Server {
	tb.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		if os.Getenv("CI") != "" {
			tb.Fatal("redis-server is not installed: apt-get install redis-server")
		}
		tb.Skip("SKIPPED, NOT TESTED: redis-server is not installed: apt-get install redis-server")
	}
	folder, err := os.MkdirTemp("", "redis") // short: a socket's path must not be long
	if err != nil {
		tb.Fatal(err)
	}
	socket := filepath.Join(folder, "s")
	s := &Server{URL: seal.NewSecret("unix://" + socket + "?db=0")}
	s.process = exec.Command(program, "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", folder)
	if err := s.process.Start(); err != nil {
		tb.Fatal(err)
	}
	s.Client = goredis.NewClient(&goredis.Options{Network: "unix", Addr: socket, MaxRetries: -1})
	tb.Cleanup(func() {
		_ = s.Client.Close()
		s.Stop()
		_ = os.RemoveAll(folder)
	})
	for deadline := time.Now().Add(startTimeout); s.Client.Ping(context.Background()).Err() != nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatal("redis-server does not answer")
		}
	}
	return s
}

// Stop ends the server at once. It may be called again.
func (s *Server) Stop() {
	if s.process.ProcessState == nil {
		_ = s.process.Process.Kill()
		_ = s.process.Wait()
	}
}
