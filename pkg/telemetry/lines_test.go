package telemetry_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywarden/keywarden/pkg/telemetry"
)

// sink is a reader of the log that counts writes, and that may take none.
type sink struct {
	mu     sync.Mutex
	text   bytes.Buffer
	writes int
	block  chan struct{} // closed when writes may go on; nil: they may
	err    error
}

// Write implements io.Writer.
func (s *sink) Write(p []byte) (int, error) {
	if s.block != nil {
		<-s.block
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	if s.err != nil {
		return 0, s.err
	}
	return s.text.Write(p)
}

func (s *sink) state() (text string, writes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String(), s.writes
}

// await waits until something was written.
func (s *sink) await(t *testing.T, part string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		if text, _ := s.state(); strings.Contains(text, part) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("never written: %q", part)
		}
	}
}

func TestLinesAreWrittenTogetherInTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &sink{}
		l := telemetry.NewLines(out)
		var want strings.Builder
		for i := range 100 {
			fmt.Fprintf(&want, "line %d\n", i)
			fmt.Fprintf(l, "line %d\n", i)
		}
		if _, writes := out.state(); writes != 0 {
			t.Errorf("%d writes before anybody waited", writes)
		}
		l.Close()
		fmt.Fprint(l, "after\n")
		text, writes := out.state()
		if text != want.String()+"after\n" || writes != 2 {
			t.Errorf("%d writes of %q", writes, text)
		}
	})
}

func TestLinesAreWrittenSoonWithoutAnotherOne(t *testing.T) {
	out := &sink{}
	l := telemetry.NewLines(out)
	defer l.Close()
	for i := range 3 {
		fmt.Fprintf(l, "%d\n", i)
		out.await(t, fmt.Sprintf("%d\n", i))
	}
}

func TestSlowReaderOfTheLogHoldsNobodyUp(t *testing.T) {
	out := &sink{block: make(chan struct{})}
	l := telemetry.NewLines(out)
	l.ReportTo(telemetry.NewLogger(l, slog.LevelInfo, telemetry.FormatJSON))
	line := []byte(strings.Repeat("x", 1023) + "\n")
	const lines = 10_000 // more than twice what may wait
	for range lines {
		if _, err := l.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	lost := l.Lost()
	if lost == 0 {
		t.Error("nothing was lost: what waits has no bound")
	}
	close(out.block)
	out.await(t, fmt.Sprintf(`"lines":%d`, lost))
	l.Close()
	text, _ := out.state()
	if got := int64(strings.Count(text, string(line))); got != lines-lost {
		t.Errorf("%d lines were written and %d lost of %d", got, lost, lines)
	}
}

func TestLinesThatCannotBeWrittenAreCounted(t *testing.T) {
	out := &sink{err: errors.New("no space left on device")}
	l := telemetry.NewLines(out)
	fmt.Fprint(l, "a\n")
	fmt.Fprint(l, "b\n")
	l.Close()
	if l.Lost() != 2 {
		t.Errorf("%d lines lost, want 2", l.Lost())
	}
}

func TestCloseOfLinesDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &sink{block: make(chan struct{})}
		l := telemetry.NewLines(out)
		fmt.Fprint(l, "a\n")
		l.Close()
		if text, _ := out.state(); text != "" {
			t.Errorf("%q was written", text)
		}
		close(out.block)
		out.await(t, "a\n")
	})
}

func TestLinesAreSafeForConcurrentUse(t *testing.T) {
	out := &sink{}
	l := telemetry.NewLines(out)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for range 1000 {
				fmt.Fprintf(l, "line of %d\n", i)
			}
		})
	}
	group.Wait()
	l.Close()
	text, _ := out.state()
	for i := range 8 {
		if n := strings.Count(text, fmt.Sprintf("line of %d\n", i)); n != 1000 {
			t.Errorf("%d lines of %d", n, i)
		}
	}
}
