//go:build unix && !aix && !solaris

package pglocal

import (
	"fmt"
	"io"
	"os"
	"strings"
)

const (
	// maxLog is the size in bytes at which a start puts the log aside.
	maxLog = 8 << 20
	// maxTail is how much of the log in bytes goes into an error.
	maxTail = 2 << 10
)

// serverLog is the file that PostgreSQL's programs write to. It is a file and
// no pipe: a pipe would end with the caller, and keep whoever waits for the end of
// the caller's output waiting for PostgreSQL.
type serverLog struct {
	file  *os.File
	start int64 // where this run's part begins
}

// openLog opens the log at path for appending, after putting a big one aside.
func openLog(path string) (*serverLog, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, fmt.Errorf("put the old log aside: %w", err)
		}
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open PostgreSQL's log: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("open PostgreSQL's log: %w", err)
	}
	return &serverLog{file: file, start: info.Size()}, nil
}

// tail is the end of this run's part, indented on lines of its own, to append to
// an error; empty when nothing was written.
func (g *serverLog) tail() string {
	info, err := g.file.Stat()
	if err != nil {
		return ""
	}
	from := max(g.start, info.Size()-maxTail)
	text, err := io.ReadAll(io.NewSectionReader(g.file, from, maxTail))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if from > g.start {
		lines = lines[1:] // The first one was cut.
	}
	if len(lines) == 0 || lines[0] == "" {
		return ""
	}
	return "\n\t" + strings.Join(lines, "\n\t")
}
