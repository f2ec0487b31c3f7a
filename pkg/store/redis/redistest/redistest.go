// Package redistest starts Redis for tests, on a socket of its own, or as a cluster
// of one node. Only tests import it.
package redistest

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
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
	folder := newFolder(tb)
	socket := filepath.Join(folder, "s")
	client := goredis.NewClient(&goredis.Options{Network: "unix", Addr: socket, MaxRetries: -1})
	return start(tb, "unix://"+socket+"?db=0", client, "--port", "0", "--unixsocket", socket, "--dir", folder)
}

// StartCluster is Start of a cluster: one node on a loopback port that has all the
// slots.
func StartCluster(tb testing.TB) *Server {
	tb.Helper()
	port, bus := freePort(tb), freePort(tb)
	address := net.JoinHostPort("127.0.0.1", port)
	client := goredis.NewClient(&goredis.Options{Addr: address, MaxRetries: -1})
	s := start(tb, "redis://"+address, client, "--bind", "127.0.0.1", "--port", port, "--cluster-port", bus,
		"--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1", "--dir", newFolder(tb))
	if err := client.ClusterAddSlotsRange(tb.Context(), 0, 16383).Err(); err != nil {
		tb.Fatal(err)
	}
	s.await(tb, "the cluster is not ready", func() bool {
		return strings.Contains(client.ClusterInfo(tb.Context()).Val(), "cluster_state:ok")
	})
	return s
}

// newFolder makes a folder with a short name: a socket's path must not be long.
func newFolder(tb testing.TB) string {
	tb.Helper()
	folder, err := os.MkdirTemp("", "redis")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(folder) })
	return folder
}

// freePort is one that nobody listens on just now.
func freePort(tb testing.TB) string {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	return port
}

func start(tb testing.TB, url string, client *goredis.Client, args ...string) *Server {
	tb.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		if os.Getenv("CI") != "" {
			tb.Fatal("redis-server is not installed: apt-get install redis-server")
		}
		tb.Skip("SKIPPED, NOT TESTED: redis-server is not installed: apt-get install redis-server")
	}
	s := &Server{URL: seal.NewSecret(url), Client: client}
	s.process = exec.Command(program, append(args, "--save", "", "--appendonly", "no")...)
	if err := s.process.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = s.Client.Close()
		s.Stop()
	})
	s.await(tb, "redis-server does not answer", func() bool { return s.Client.Ping(context.Background()).Err() == nil })
	return s
}

func (s *Server) await(tb testing.TB, failure string, done func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(startTimeout); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatal(failure)
		}
	}
}

// Stop ends the server at once. It may be called again.
func (s *Server) Stop() {
	if s.process.ProcessState == nil {
		_ = s.process.Process.Kill()
		_ = s.process.Wait()
	}
}

// Pause freezes the server: it keeps its connections and answers nobody, until
// Resume.
func (s *Server) Pause() { _ = s.process.Process.Signal(syscall.SIGSTOP) }

// Resume lets a paused server go on.
func (s *Server) Resume() { _ = s.process.Process.Signal(syscall.SIGCONT) }
