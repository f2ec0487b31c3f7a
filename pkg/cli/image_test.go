package cli_test

import (
	"cmp"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// Limits of the image, in bytes. What is pulled is what the layers weigh when they
// are compressed, as a registry counts them; the base image adds less than a
// megabyte to that, and about two to what lies on the disk.
const (
	pulledLimit   = 40_000_000
	unpackedLimit = 75_000_000
	basePulled    = 1_000_000
	baseUnpacked  = 2_500_000
)

// imageUser is the user nonroot of the base image.
const imageUser = 65532

// imageBinary is the program as the image has it. To build it takes a minute or two
// the first time, so that has to be asked for.
func imageBinary(t *testing.T) string {
	t.Helper()
	if os.Getenv("KEYWARDEN_TEST_IMAGE") == "" && os.Getenv("CI") != "true" {
		t.Skip("builds the program once more: run make image-check")
	}
	folder := filepath.Join(sharedDir(t), "image")
	program := filepath.Join(folder, "keywarden")
	if _, err := os.Stat(program); err == nil {
		return program
	}
	cmd := exec.CommandContext(t.Context(), "make", "--no-print-directory", "-C", "../..", "dist", "DIST="+folder, "VERSION=v0.0.0-test", "REVISION=0123abc")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make dist: %v\n%s", err, out)
	}
	return program
}

func TestImageIsSmall(t *testing.T) {
	file, err := os.Open(imageBinary(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	var packed count
	zip := gzip.NewWriter(&packed)
	size, err := io.Copy(zip, file)
	if err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	pulled, unpacked := int64(packed)+basePulled, size+baseUnpacked
	t.Logf("the image: %.1f MB to pull, %.1f MB on the disk", float64(pulled)/1e6, float64(unpacked)/1e6)
	if pulled > pulledLimit {
		t.Errorf("the image has %d bytes to pull, the limit is %d", pulled, pulledLimit)
	}
	if unpacked > unpackedLimit {
		t.Errorf("the image has %d bytes on the disk, the limit is %d", unpacked, unpackedLimit)
	}
}

// count is a writer that only counts.
type count int64

func (c *count) Write(b []byte) (int, error) {
	*c += count(len(b))
	return len(b), nil
}

func TestImageSaysItsVersion(t *testing.T) {
	run(t, invocation{path: imageBinary(t), args: []string{"version"}}).want(0, "keywarden v0.0.0-test (0123abc, go")
}

// imageRoot is a root file system with nothing but the program, the user that it
// runs as, a gateway document and a master key.
func imageRoot(t *testing.T) (root string) {
	t.Helper()
	root = openDir(t)
	for _, dir := range []string{"usr/local/bin", "etc/keywarden", "run/secrets"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile(imageBinary(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]struct {
		text []byte
		mode os.FileMode
	}{
		"usr/local/bin/keywarden":    {program, 0o755},
		"etc/passwd":                 {fmt.Appendf(nil, "nonroot:x:%d:%d:nonroot:/home/nonroot:/sbin/nologin\n", imageUser, imageUser), 0o644},
		"etc/keywarden/gateway.yaml": {[]byte("version: 1\n"), 0o644},
		"run/secrets/master_key":     {[]byte(seal.NewMasterKey().Reveal() + "\n"), 0o444},
	} {
		if err := os.WriteFile(filepath.Join(root, name), file.text, file.mode); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// confined runs the program of a root file system as a container would: that is all
// it sees, and read-only; it is nobody, and cannot become anybody else. Its network
// is the machine's.
func confined(root string, in invocation) invocation {
	script := fmt.Sprintf(`mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" &&
exec setpriv --no-new-privs --bounding-set=-all,+sys_chroot,+setuid,+setgid chroot --userspec=%d:%d "$0" /usr/local/bin/keywarden "$@"`, imageUser, imageUser)
	in.args = append([]string{"--mount", "--propagation", "private", "/bin/sh", "-c", script, root}, in.args...)
	in.path = "unshare"
	return in
}

// relay makes the private database, which listens on a Unix socket only, reachable
// for a program that does not see that file.
func relay(t *testing.T, address string) (reachable string) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal("the URL of the database cannot be read")
	}
	query := u.Query()
	folder := query.Get("host")
	if !filepath.IsAbs(folder) {
		return address
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		_ = listener.Close()
		running.Wait()
	})
	socket := filepath.Join(folder, ".s.PGSQL."+cmp.Or(query.Get("port"), u.Port(), "5432"))
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { join(ctx, conn, socket) })
		}
	})
	query.Del("host")
	query.Del("port")
	query.Set("sslmode", "disable")
	u.Host, u.RawQuery = listener.Addr().String(), query.Encode()
	return u.String()
}

// join carries bytes both ways between conn and a socket until one side ends.
func join(ctx context.Context, conn net.Conn, socket string) {
	defer func() { _ = conn.Close() }()
	other, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return
	}
	defer func() { _ = other.Close() }()
	ended := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{conn, other}, {other, conn}} {
		go func() {
			_, _ = io.Copy(way[0], way[1])
			ended <- struct{}{}
		}()
	}
	select {
	case <-ended:
	case <-ctx.Done():
	}
	_ = conn.Close()
	_ = other.Close()
	<-ended
}

// What a container with a read-only root file system, without capabilities and with
// no writable folder at all gives the program is enough for it.
func TestImageRunsOnAReadOnlyRootAsNobody(t *testing.T) {
	root := imageRoot(t)
	if out, err := exec.Command("unshare", "--mount", "--propagation", "private", "mount", "--bind", root, root).CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("needs root and the right to mount: %v\n%s", err, out)
		}
		t.Skipf("needs root and the right to mount: %v", err)
	}
	addr := freeAddress(t)
	in := invocation{args: []string{"serve"}, env: []string{
		"DATABASE_URL=" + relay(t, pgtest.Empty(t)), // it makes the schema itself
		"KEYWARDEN_MASTER_KEY_FILE=/run/secrets/master_key",
		"KEYWARDEN_DATA_DIR=/var/lib/keywarden", // as in the Dockerfile; it does not exist
		"KEYWARDEN_SERVER_ADDR=" + addr,
		"GATEWAY_CONFIG=/etc/keywarden/gateway.yaml",
	}}
	probe := confined(root, invocation{args: []string{"healthcheck"}, env: in.env})
	run(t, probe).want(1, "not healthy")

	p := start(t, confined(root, in))
	p.logged("serving", nil)
	run(t, probe).want(0)
	wantConfined(t, p.cmd.Process.Pid, root)

	if status, body, err := get(t.Context(), "http://"+addr+"/readyz"); status != http.StatusOK || !strings.Contains(body, `"ready"`) {
		t.Errorf("it answers %d %s, %v", status, body, err)
	}
	form := strings.NewReader(`{"email":"ada@example.com","password":"correct horse battery staple","name":"Ada"}`)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addr+"/auth/register", form)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Close = true
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Errorf("an account is made with %s", resp.Status)
	}
	// What the pipeline asks after a deployment.
	run(t, invocation{path: "make", args: []string{"--no-print-directory", "-C", "../..", "smoke", "BASE_URL=http://" + addr, "VERSION=v0.0.0-test"}}).
		want(0, "it is version v0.0.0-test", "All of it is well.")
	p.stop()
	for line := range strings.Lines(p.stderr.String()) {
		if strings.Contains(line, `"level":"WARN"`) || strings.Contains(line, `"level":"ERROR"`) || strings.Contains(line, "read-only file system") {
			t.Errorf("it misses something: %s", line)
		}
	}
}

// wantConfined checks that the process is as confined as the test means it to be.
func wantConfined(t *testing.T, pid int, root string) {
	t.Helper()
	status := readFile(t, fmt.Sprintf("/proc/%d/status", pid))
	user := fmt.Sprintf("Uid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", imageUser)
	for _, want := range []string{user, "CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n", "NoNewPrivs:\t1\n"} {
		if !strings.Contains(status, want) {
			t.Errorf("the process is not confined, %q is missing in\n%s", want, status)
		}
	}
	if seen, err := os.Readlink(fmt.Sprintf("/proc/%d/root", pid)); err != nil || seen != root {
		t.Errorf("the process sees %s, %v", seen, err)
	}
	for line := range strings.Lines(readFile(t, fmt.Sprintf("/proc/%d/mountinfo", pid))) {
		fields := strings.Fields(line)
		if fields[4] == "/" && !strings.HasPrefix(fields[5], "ro") {
			t.Errorf("its root file system can be written to: %s", line)
		}
	}
}
