//go:build unix && !aix && !solaris

package pglocal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

// childDir names the data directory that a re-executed test binary runs a server
// in until it is killed.
const childDir = "PGLOCAL_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(runChild(dir))
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if sharedParent != "" {
			_ = os.RemoveAll(sharedParent)
		}
		os.Exit(code)
	}))
}

// sharedParent holds the cluster of sharedDir, once there is one.
var sharedParent string

// sharedDir is the data directory of a stopped cluster for tests, one after the
// other, that leave it as it is: making one is the costly part of most tests.
func sharedDir(t *testing.T) string {
	t.Helper()
	if sharedParent == "" {
		parent, err := os.MkdirTemp("", "pglocal")
		if err != nil {
			t.Fatal(err)
		}
		sharedParent = parent
		if err := os.Chmod(parent, 0o711); err != nil { // Another user has to pass.
			t.Fatal(err)
		}
	}
	dir := filepath.Join(sharedParent, "pg")
	stop(t, start(t, Options{DataDir: dir, Disposable: true}))
	return dir
}

// runChild is a program that uses pglocal; it says when the server is ready.
func runChild(dir string) int {
	if _, err := Start(context.Background(), Options{DataDir: dir}); err != nil {
		fmt.Println("failed:", err)
		return 1
	}
	fmt.Println("ready")
	select {}
}

// startChild starts a program on dir that the test may kill.
func startChild(t *testing.T, dir string) (child *exec.Cmd, output *bufio.Reader) {
	t.Helper()
	child = exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childDir+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	})
	return child, bufio.NewReader(out)
}

// startReadyChild is startChild that waits until the child's server is ready.
func startReadyChild(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	child, output := startChild(t, dir)
	line, err := output.ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "ready" {
		t.Fatalf("child says %q, %v", line, err)
	}
	return child
}

func killChild(t *testing.T, child *exec.Cmd) {
	t.Helper()
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
}

// dataDir is a new data directory that the user PostgreSQL runs as may enter.
func dataDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil { // Another user has to pass.
		t.Fatal(err)
	}
	dir = filepath.Join(dir, "pg")
	t.Cleanup(func() {
		if err := Remove(context.Background(), dir); err != nil {
			t.Errorf("after the test: %v", err)
		}
	})
	return dir
}

// usedDir is a data directory with a cluster that was stopped in order.
func usedDir(t *testing.T) string {
	t.Helper()
	dir := dataDir(t)
	stop(t, start(t, Options{DataDir: dir, Disposable: true}))
	return dir
}

// start starts a server that the test's end stops.
func start(t *testing.T, opts Options) *Server {
	t.Helper()
	s, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop(context.Background()) })
	return s
}

func stop(t *testing.T, s *Server) {
	t.Helper()
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// query runs one statement that returns one text.
func query(t *testing.T, url, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	var text string
	if err := conn.QueryRow(t.Context(), sql).Scan(&text); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return text
}

func execute(t *testing.T, url, sql string) error {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	_, err = conn.Exec(t.Context(), sql)
	return err
}

func mustExecute(t *testing.T, url, sql string) {
	t.Helper()
	if err := execute(t, url, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// wantError checks what a caller can tell apart (sentinel, unless nil) and what a
// person reads.
func wantError(t *testing.T, err, sentinel error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if sentinel != nil && !errors.Is(err, sentinel) {
		t.Errorf("error is not %q: %v", sentinel, err)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error does not say %q: %v", text, err)
		}
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// eventually polls until done, and fails when that takes longer than anything
// reasonable on a loaded machine.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("still not so: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
