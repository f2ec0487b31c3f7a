package faulttest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// reportVariable names the Markdown file that gets what was measured; unset, it is
// only logged.
const reportVariable = "KEYWARDEN_TEST_REPORT"

// Long reports whether tests are to take their full time and size. In the ordinary
// run each shows only that it works.
func Long() bool { return os.Getenv("KEYWARDEN_TEST_LONG") != "" }

// Measured logs what came out of a scenario of docs/reliability.md and, in the
// long run, writes it there. Only what a test that has not failed has measured is
// worth keeping.
func Measured(tb testing.TB, id, format string, args ...any) {
	tb.Helper()
	text := fmt.Sprintf(format, args...)
	tb.Logf("%s: %s", id, text)
	file := os.Getenv(reportVariable)
	if file == "" || !Long() || tb.Failed() {
		return
	}
	if err := write(file, id, text); err != nil {
		tb.Errorf("write what was measured: %v", err)
	}
}

// write puts the text between the markers of the id. Tests of several packages
// must not do so at the same time: "make test-fault" runs them in turn.
func write(file, id, text string) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	text = strings.NewReplacer("|", `\|`, "\n", " ").Replace(text)
	head, rest, ok := strings.Cut(string(old), "<!-- "+id+" -->")
	_, tail, ok2 := strings.Cut(rest, "<!-- end -->")
	if !ok || !ok2 {
		return errors.New(file + " has no place for " + id)
	}
	return os.WriteFile(file, []byte(head+"<!-- "+id+" -->"+text+"<!-- end -->"+tail), 0o644)
}

// Percentile is the smallest value that p of 100 of the list do not exceed; 0 of
// an empty list. The list is sorted by it.
func Percentile(list []time.Duration, p float64) time.Duration {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[min(len(list)-1, int(float64(len(list))*p/100))]
}
