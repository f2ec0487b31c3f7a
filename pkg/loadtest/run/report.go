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
	_, _ = fmt.Fprintf(&b, "%s, %s, %s, %d processors, with PostgreSQL, the services and the load on the same machine; %v of each after %v of warming up, of logins until there are %d; `-rate %s`.\n\n",
		time.Now().UTC().Format(time.DateOnly), runtime.Version(), loadtest.Processor(), runtime.NumCPU(), s.duration, s.warm, fewestHashes, s.rates)
	b.WriteString("| mix | a second | median | 95 % | 99 % | longest | bounds | failed |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, m := range done {
		what := m.what
		if m.refusing > 0 {
			what += fmt.Sprintf("; %d of %.0f passed", m.passed, m.rate*m.span.Seconds())
		}
		bounds := fmt.Sprintf("%d and %d ms", s.p95.Milliseconds(), s.p99.Milliseconds())
		if m.hash != nil {
			bounds += fmt.Sprintf(" more than a hash alone; it is %s and %s more", milliseconds(m.beyond(0.95)), milliseconds(m.beyond(0.99)))
		}
		row(&b, m.name+": "+what, m.Result, bounds)
		if m.hash != nil {
			row(&b, "a hash alone, in turn with those", m.hash, "")
		}
	}
	return b.String()
}

// row adds a line to the table.
func row(b *strings.Builder, what string, r *loadtest.Result, bounds string) {
	_, _ = fmt.Fprintf(b, "| %s | %.0f | %s | %s | %s | %s | %s | %d of %d |\n", what, r.Rate(),
		milliseconds(r.Latency.Quantile(0.50)), milliseconds(r.Latency.Quantile(0.95)), milliseconds(r.Latency.Quantile(0.99)),
		milliseconds(r.Latency.Max()), bounds, r.Failed, r.Sent)
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
		than := ""
		if m.hash != nil {
			than = " beyond that of a hash alone"
			if m.Sent < fewestHashes || m.hash.Sent < fewestHashes {
				wrong(m, "%d requests and %d hashes alone are too few to compare, want %d", m.Sent, m.hash.Sent, fewestHashes)
			}
			for _, kind := range slices.Sorted(maps.Keys(m.hash.Failures)) {
				wrong(m, "a hash alone, %d times: %s", m.hash.Failures[kind], kind)
			}
		}
		if p := m.beyond(0.95); p >= m.p95 {
			wrong(m, "the 95th percentile is %s%s, want less than %s", milliseconds(p), than, milliseconds(m.p95))
		}
		if p := m.beyond(0.99); p >= m.p99 {
			wrong(m, "the 99th percentile is %s%s, want less than %s", milliseconds(p), than, milliseconds(m.p99))
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
