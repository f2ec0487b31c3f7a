package main

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/loadtest"
)

// Markers between which the report stands in a Markdown file.
const (
	markBegin = "<!-- load: begin, written by make load -->\n"
	markEnd   = "<!-- load: end -->\n"
)

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

// String is one line for who waits.
func (m measured) String() string {
	return fmt.Sprintf("%-7s %6.0f a second, p50 %s, p95 %s, p99 %s, longest %s, %d failed of %d", m.name, m.Rate(),
		milliseconds(m.Latency.Quantile(0.50)), milliseconds(m.Latency.Quantile(0.95)), milliseconds(m.Latency.Quantile(0.99)),
		milliseconds(m.Latency.Max()), m.Failed, m.Sent)
}

// report is the table, with what one needs to know to read it.
func report(done []measured, s settings) string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "%s, %s, %s, %d processors, with PostgreSQL, the services and the load on the same machine; %v of each after %v of warming up; `-rate %s`.\n\n",
		time.Now().UTC().Format(time.DateOnly), runtime.Version(), loadtest.Processor(), runtime.NumCPU(), s.duration, s.warm, s.rates)
	b.WriteString("| mix | a second | median | 95 % | 99 % | longest | bounds | failed |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, m := range done {
		what := m.what
		if m.refusing > 0 {
			what += fmt.Sprintf("; %d of %.0f passed", m.passed, m.rate*m.span.Seconds())
		}
		bounds := fmt.Sprintf("%d and %d ms", s.p95.Milliseconds(), s.p99.Milliseconds())
		if m.hash > 0 {
			bounds += " beyond a hash, which alone takes up to " + milliseconds(m.hash)
		}
		_, _ = fmt.Fprintf(&b, "| %s: %s | %.0f | %s | %s | %s | %s | %s | %d of %d |\n", m.name, what, m.Rate(),
			milliseconds(m.Latency.Quantile(0.50)), milliseconds(m.Latency.Quantile(0.95)), milliseconds(m.Latency.Quantile(0.99)),
			milliseconds(m.Latency.Max()), bounds, m.Failed, m.Sent)
	}
	return b.String()
}

// slack is by how much more than its rate a limit may let through.
const slack = 1.05

// verdict says what is not as it must be.
func verdict(done []measured) error {
	var all []error
	wrong := func(m measured, format string, args ...any) {
		all = append(all, fmt.Errorf(m.name+": "+format, args...))
	}
	for _, m := range done {
		if m.Sent == 0 {
			wrong(m, "nothing was sent")
			continue
		}
		if p := m.Latency.Quantile(0.95); p >= m.p95 {
			wrong(m, "the 95th percentile is %s, want less than %s", milliseconds(p), milliseconds(m.p95))
		}
		if p := m.Latency.Quantile(0.99); p >= m.p99 {
			wrong(m, "the 99th percentile is %s, want less than %s", milliseconds(p), milliseconds(m.p99))
		}
		for _, kind := range slices.Sorted(maps.Keys(m.Failures)) {
			wrong(m, "%d times: %s", m.Failures[kind], kind)
		}
		if m.refusing > 0 {
			// What was saved up, and what comes in the time.
			most := (m.refusing + m.refusing*m.span.Seconds()) * slack
			if m.rate > 2*m.refusing && (float64(m.passed) > most || float64(m.passed) < m.refusing*m.span.Seconds()/slack) {
				wrong(m, "%d requests passed in %v, with a limit of %.0f a second", m.passed, m.span, m.refusing)
			}
		}
	}
	return errors.Join(all...)
}
