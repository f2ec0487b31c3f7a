// Package main offers a running installation four kinds of requests, each at a
// constant rate, and says what they took: logins, keys, proxied calls, and calls
// beyond a limit. It is started by "make load", and fails when an answer is wrong
// or when the 95th or 99th percentile is not below its bound. That of logins is
// beyond what a password hash alone takes, which is measured in turn with them.
//
// It owns the mixes, which configs/load has for k6 and Vegeta as well, and the
// report. What it starts are the real programs: "keywarden serve" with its
// defaults, on a private PostgreSQL or that of DATABASE_URL, and the two sample
// services. The loop and its histogram are package loadtest's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/keywarden/keywarden/pkg/loadtest"
)

// settings are the flags.
type settings struct {
	program  string        // of keywarden; built when empty
	duration time.Duration // of what counts of each mix; longer where it takes hashes, until they are enough
	warm     time.Duration // before that
	workers  int           // most requests at once
	p95, p99 time.Duration // bounds of each mix
	rates    rates
	doc      string // file that gets the report, if any
}

// rates are requests in a second, by mix. 0 leaves a mix out.
type rates map[string]float64

// String implements flag.Value.
func (r rates) String() string {
	var list []string
	for _, m := range mixes {
		list = append(list, fmt.Sprintf("%s=%g", m.name, r[m.name]))
	}
	return strings.Join(list, ",")
}

// Set implements flag.Value: "key=500,proxy=100" changes those two.
func (r rates) Set(text string) error {
	for item := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(item, "=")
		if _, known := r[name]; !known {
			return fmt.Errorf("there is no mix %q; they are login, key, proxy and limits", name)
		}
		rate, err := strconv.ParseFloat(value, 64)
		if err != nil || !(rate >= 0 && rate <= 1e6) { // NaN neither
			return fmt.Errorf("%s=%q is no rate: want requests a second, such as key=500", name, value)
		}
		r[name] = rate
	}
	return nil
}

func main() {
	s := settings{rates: rates{}}
	for _, m := range mixes {
		s.rates[m.name] = m.rate
	}
	flag.StringVar(&s.program, "program", "", "the keywarden program; built from the working tree when empty")
	flag.DurationVar(&s.duration, "duration", 15*time.Second, "time of each mix; logins take longer, until there are 100")
	flag.DurationVar(&s.warm, "warm", 3*time.Second, "time before that, which does not count")
	flag.IntVar(&s.workers, "workers", 64, "most requests at once")
	flag.DurationVar(&s.p95, "p95", 50*time.Millisecond, "bound of the 95th percentile")
	flag.DurationVar(&s.p99, "p99", 100*time.Millisecond, "bound of the 99th percentile")
	flag.Var(s.rates, "rate", "requests a second of each `mix`, 0 for none, such as key=500,login=0")
	flag.StringVar(&s.doc, "doc", "", "Markdown file whose section between the markers gets the report")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, s, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "loadtest:", err)
		os.Exit(1)
	}
}

// run starts everything, sends each mix in turn, and reports.
func run(ctx context.Context, s settings, out, progress io.Writer) (err error) {
	site, err := newSite(ctx, s.program)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, site.close()) }()
	var done []measured
	for _, m := range mixes {
		if s.rates[m.name] == 0 {
			continue
		}
		one, err := site.measure(ctx, s, m)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		_, _ = fmt.Fprintln(progress, one)
		done = append(done, one)
	}
	text := report(done, s)
	_, _ = io.WriteString(out, text)
	if s.doc != "" {
		if err := loadtest.Insert(s.doc, markBegin, markEnd, text); err != nil {
			return err
		}
	}
	return verdict(done)
}
