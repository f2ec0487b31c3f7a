package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is one of those that are measured, or that are needed for it.
type process struct {
	cmd     *exec.Cmd
	ended   chan struct{} // closed when the process is over
	addr    string
	metrics string // address of its metrics, if it has any
	log     string // file that it writes its access log into, emptied before each window
	key     string // API key that may pass, if one is needed
	token   string // access token that may pass
}

// start starts the command.
func start(cmd *exec.Cmd) (*process, error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // a process that is told to end may end by that
		close(p.ended)
	}()
	return p, nil
}

// startRole starts this program in a role.
func startRole(args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, append([]string{roleArgument}, args...)...)
	cmd.Stderr = os.Stderr
	in, out, err := os.Pipe() // not the command's own, which its end would close
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }()
	cmd.Stdout = out
	p, err := start(cmd)
	_ = out.Close()
	if err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(in).ReadBytes('\n')
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("the role %s: %w", args[0], err)
	}
	var says addresses
	if err := json.Unmarshal(line, &says); err != nil {
		p.stop()
		return nil, err
	}
	p.addr, p.metrics = says.Main, says.Metrics
	return p, nil
}

// stopLimit is how long a process may take to end by itself.
const stopLimit = 40 * time.Second

// stop ends the process and waits for that.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // roles end by it, the gateway drains
	select {
	case <-p.ended:
	case <-time.After(stopLimit):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// cpu is the user and system time that the process has used, by its clock of
// clock_getcpuclockid(3), which counts nanoseconds where /proc counts ticks.
func (p *process) cpu() time.Duration {
	const schedulerClock = 2 // CPUCLOCK_SCHED of the kernel: all threads, user and system
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|schedulerClock), &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// memory is what a process holds, in bytes: in all, and what is its own rather than
// pages of the program's file, which the system can take back and read again.
type memory struct{ resident, anonymous float64 }

// text is in megabytes.
func (m memory) text() string { return fmt.Sprintf("%.1f (%.1f)", m.resident/1e6, m.anonymous/1e6) }

// memory looks at /proc.
func (p *process) memory() (m memory, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return m, err
	}
	all, err := number(text, `(?m)^VmRSS:\s+(\d+) kB$`)
	if err != nil {
		return m, err
	}
	own, err := number(text, `(?m)^RssAnon:\s+(\d+) kB$`)
	return memory{all * 1024, own * 1024}, err
}

// mallocs is how many objects the process has allocated on its heap so far.
func (p *process) mallocs(ctx context.Context) (float64, error) {
	text, err := fetch(ctx, "http://"+p.metrics+"/metrics")
	if err != nil {
		return 0, err
	}
	return number(text, `(?m)^go_memstats_mallocs_total (\S+)$`)
}

// number is the one that the pattern finds in text.
func number(text []byte, pattern string) (float64, error) {
	found := regexp.MustCompile(pattern).FindSubmatch(text)
	if found == nil {
		return 0, fmt.Errorf("nothing like %s was told", pattern)
	}
	return strconv.ParseFloat(string(found[1]), 64)
}

// fetch gets a URL of a process that is measured.
func fetch(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		err = errors.Join(err, fmt.Errorf("%s: status %d: %.200s", url, resp.StatusCode, text))
	}
	return text, err
}

// emptyLog forgets what was logged so far.
func (p *process) emptyLog() error {
	if p.log == "" {
		return nil
	}
	return os.Truncate(p.log, 0)
}
