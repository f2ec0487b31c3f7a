// Package main measures what the gateway costs: CPU microseconds per proxied
// request, beside a proxy of Gin and httputil.ReverseProxy with the same policies and
// the backend alone; allocations, memory, the time of a start, and what many keys and
// routes add. All of them are processes of their own and run in the same rounds in
// turn, so that what the machine does meanwhile hits them alike. It is started by
// "make bench", and in short by "make bench-check".
//
// It owns the backend, the load and the tables; the other proxy is ginproxy's. It
// measures no latency, and asserts nothing but two bounds of the short run that do not
// depend on the machine: figures belong to the one they were made on.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/keywarden/keywarden/pkg/loadtest"
)

// settings are the flags.
type settings struct {
	program     string        // of keywarden; built when empty
	set         []string      // name=value, for each start of it
	netHTTP     bool          // rows without the own HTTP/1.1 front as well
	parts       []string      // what to measure
	rounds      int           // at least minRounds
	window      time.Duration // of one row in one round
	connections int           // kept alive, each with one request at a time
	only        string        // name of the one row to run, to profile it
	doc         string        // file that gets the tables, if any
	profile     string        // file for the CPU profile of that row, if any

	check       bool    // the short run
	most        float64 // bound of the ratio, for check
	allocations float64 // bound of the allocations per request, for check
}

// minRounds is the least number of rounds of which a median says anything.
const minRounds = 4

func main() {
	if len(os.Args) > 1 && os.Args[1] == roleArgument {
		fail(play(os.Args[2:]))
		return
	}
	s, flags, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	fail(err)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if s.check {
		fail(check(ctx, s, os.Stdout, os.Stderr))
		return
	}
	fail(run(ctx, s, preamble(s, flags), os.Stdout, os.Stderr))
}

func fail(err error) {
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "benchtest:", err)
		os.Exit(1)
	}
}

// parse reads the flags and refuses what makes no sense together.
func parse(args []string, usage io.Writer) (s settings, flags *flag.FlagSet, err error) {
	flags = flag.NewFlagSet("benchtest", flag.ContinueOnError)
	flags.SetOutput(usage)
	flags.StringVar(&s.program, "program", "", "the keywarden program; built from the working tree when empty")
	flags.Func("set", "option of the program, as `name=value`; repeatable", func(v string) error {
		if name, _, found := strings.Cut(v, "="); !found || name == "" {
			return errors.New("want name=value, such as log.level=warn")
		}
		s.set = append(s.set, v)
		return nil
	})
	flags.BoolVar(&s.netHTTP, "nethttp", false, "measure with "+netHTTPSetting+" as well")
	names := strings.Join(partNames(), ",")
	chosen := flags.String("parts", names, "what to measure, of these")
	flags.IntVar(&s.rounds, "rounds", 6, "rounds, at least 4, and 10 with -check")
	flags.DurationVar(&s.window, "window", 1200*time.Millisecond, "time of one row in one round")
	flags.IntVar(&s.connections, "connections", 64, "keep-alive connections")
	flags.StringVar(&s.only, "only", "", "run this row of the tables alone")
	flags.StringVar(&s.doc, "doc", "", "Markdown file whose section between the markers gets the tables")
	flags.StringVar(&s.profile, "profile", "", "file for a CPU profile of the row of -only in its last window")
	flags.BoolVar(&s.check, "check", false, "the short run: fail when a ratio or the allocations are beyond their bounds")
	flags.Float64Var(&s.most, "most", 1, "for -check: most times the CPU time of its counterpart")
	flags.Float64Var(&s.allocations, "allocations", 0, "for -check: most heap allocations per request; 0 for any number")
	if err := flags.Parse(args); err != nil {
		return s, flags, err
	}
	s.parts = strings.Split(*chosen, ",")
	for _, p := range s.parts {
		if !slices.Contains(partNames(), p) {
			return s, flags, fmt.Errorf("-parts: there is no part %q; they are %s", p, names)
		}
	}
	switch {
	case flags.NArg() > 0:
		return s, flags, fmt.Errorf("%q is no flag", flags.Arg(0))
	case s.check && s.rounds < minCheckRounds:
		return s, flags, fmt.Errorf("-rounds: of %d rounds -check can tell nothing for sure, want at least %d", s.rounds, minCheckRounds)
	case s.rounds < minRounds && s.only == "":
		return s, flags, fmt.Errorf("-rounds: %d are too few, want at least %d", s.rounds, minRounds)
	case s.window <= 0 || s.connections <= 0:
		return s, flags, errors.New("-window and -connections must be more than 0")
	case s.profile != "" && s.only == "":
		return s, flags, errors.New("-profile needs -only, which says what to profile")
	}
	return s, flags, nil
}

// run measures all parts that are wanted, and reports. A part that fails does not keep
// the others from being reported, but the file keeps what it has.
func run(ctx context.Context, s settings, preamble string, out, progress io.Writer) (err error) {
	began := time.Now()
	t, err := newSite(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	texts := []string{preamble}
	var failed []error
	for _, p := range parts {
		if !slices.Contains(s.parts, p.name) {
			continue
		}
		_, _ = fmt.Fprintf(progress, "%s, after %v\n", p.name, time.Since(began).Round(time.Second))
		list, err := p.measure(ctx, t, s, progress)
		t.clear()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", p.name, err))
			_, _ = fmt.Fprintln(progress, failed[len(failed)-1])
		}
		texts = append(texts, list...)
	}
	if len(texts) == 1 && failed == nil {
		return fmt.Errorf("there is no row %q in %s", s.only, strings.Join(s.parts, ","))
	}
	text := strings.Join(texts, "\n")
	_, _ = io.WriteString(out, text)
	_, _ = fmt.Fprintf(progress, "done after %v\n", time.Since(began).Round(time.Second))
	if s.doc == "" || failed != nil {
		return errors.Join(failed...)
	}
	return loadtest.Insert(s.doc, markBegin, markEnd, text)
}
