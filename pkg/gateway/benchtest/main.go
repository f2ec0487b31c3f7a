// Package main measures what the gateway costs: CPU microseconds per proxied
// request, beside a bare reverse proxy and the backend alone. All of them are
// processes of their own and run in the same rounds in turn, so that what the
// machine does meanwhile hits them alike. It is started by "make bench".
//
// It owns the backend, the bare proxy, the load and the table. It measures no
// latency and asserts nothing: figures belong to the machine they were made on.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/keywarden/keywarden/pkg/loadtest"
)

// settings are the flags.
type settings struct {
	program     string        // of keywarden; built when empty
	rounds      int           // at least minRounds
	window      time.Duration // of one subject in one round
	connections int           // kept alive, each with one request at a time
	only        string        // name of the one subject to run, to profile it
	doc         string        // file that gets the table, if any
	profile     string        // file for the CPU profile of the gateway, if any
}

// minRounds is the least number of rounds of which a median says anything.
const minRounds = 4

func main() {
	if len(os.Args) > 1 && os.Args[1] == roleArgument {
		fail(play(os.Args[2:]))
		return
	}
	var s settings
	flag.StringVar(&s.program, "program", "", "the keywarden program; built from the working tree when empty")
	flag.IntVar(&s.rounds, "rounds", 6, "rounds, at least 4")
	flag.DurationVar(&s.window, "window", 4*time.Second, "time of one subject in one round")
	flag.IntVar(&s.connections, "connections", 64, "keep-alive connections")
	flag.StringVar(&s.only, "only", "", "run this subject alone")
	flag.StringVar(&s.doc, "doc", "", "Markdown file whose section between the markers gets the table")
	flag.StringVar(&s.profile, "profile", "", "file for a CPU profile of the gateway in its last window")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	fail(run(ctx, s, os.Stdout))
}

func fail(err error) {
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "benchtest:", err)
		os.Exit(1)
	}
}

// run starts everything, measures, and reports.
func run(ctx context.Context, s settings, out io.Writer) (err error) {
	if s.rounds < minRounds && s.only == "" {
		return fmt.Errorf("%d rounds are too few, want at least %d", s.rounds, minRounds)
	}
	site, err := newSite(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, site.close()) }()
	for round := range s.rounds {
		for i := range site.subjects {
			// Each round begins with another one: none is always the first.
			subject := site.subjects[(i+round)%len(site.subjects)]
			profile := ""
			if round == s.rounds-1 && subject.metrics != "" {
				profile = s.profile
			}
			if err := subject.measure(ctx, s, profile); err != nil {
				return fmt.Errorf("%s: %w", subject.name, err)
			}
			_, _ = fmt.Fprintf(os.Stderr, "round %d of %d: %-40s %6.1f µs, %6.0f requests/s\n", round+1, s.rounds, subject.name,
				subject.cost[len(subject.cost)-1], subject.rate[len(subject.rate)-1])
		}
	}
	table := report(site.subjects, s)
	_, _ = io.WriteString(out, table)
	if s.doc == "" {
		return nil
	}
	return loadtest.Insert(s.doc, markBegin, markEnd, table)
}
