package loadtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// shippedTags are those of the programs that are shipped. They leave out what nobody
// reaches, and what keeps the linker from finding more of that.
const shippedTags = "nomsgpack,grpcnotrace"

// Build makes a program of the repository and returns its path in dir. It is
// called from the repository's root.
func Build(ctx context.Context, dir, program string) (string, error) {
	path := filepath.Join(dir, filepath.Base(program))
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags="+shippedTags, "-o", path, program)
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w: %s", program, err, out)
	}
	return path, nil
}

// FreeAddresses are loopback addresses that nobody listened on just now.
func FreeAddresses(n int) (list []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // only at the end: all of them differ
		list = append(list, l.Addr().String())
	}
	return list, nil
}

// startLimit bounds a start, that of a new private database included.
const startLimit = time.Minute

// AwaitReady polls until the URL answers without an error.
func AwaitReady(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		_, err := Call(ctx, http.MethodGet, url, "", nil)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not become ready: %w", url, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// caller follows no proxy of the environment.
func caller() *http.Client {
	return &http.Client{Timeout: startLimit, Transport: &http.Transport{DisableKeepAlives: true}}
}

// Call asks the platform's own API, with an access token unless it is empty, and
// returns the members of its answer.
func Call(ctx context.Context, method, url, token string, body any) (map[string]any, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := caller().Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if text, err = io.ReadAll(resp.Body); err != nil {
		return nil, err
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return nil, fmt.Errorf("%s %s: status %d: %s", method, url, resp.StatusCode, text)
	}
	var answer map[string]any
	if len(text) == 0 {
		return answer, nil
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, url, err)
	}
	return answer, nil
}

// Processor is the name of the machine's processor, as far as it is known.
func Processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// Insert puts text between the lines begin and end of a Markdown file and leaves
// the rest as it is.
func Insert(file, begin, end, text string) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	head, rest, ok := strings.Cut(string(old), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return errors.New(file + " has no markers of this measurement")
	}
	return os.WriteFile(file, []byte(head+begin+"\n"+text+"\n"+end+tail), 0o644)
}
