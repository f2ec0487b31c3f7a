// Package doctor looks for what keeps an installation from working, or soon will:
// each check asks one thing and says what to do next. Checks get plain values, have a
// deadline of their own, and know nothing of one another, so that one that fails or
// hangs hides no other.
//
// It changes nothing. It is not the posture of an instance (what weakens it), and not
// its health (what its load balancer asks).
package doctor

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"
)

// Status says how a check ended.
type Status string

// The ways that a check ends.
const (
	OK      Status = "ok"
	Warning Status = "warning" // it works, and will not always, or not for everybody
	Failed  Status = "failed"  // it does not work
	Skipped Status = "skipped" // there was nothing to look at, or no way to it
)

// Finding is what a check found of one object.
type Finding struct {
	Area   string `json:"area"`             // such as "database"
	Object string `json:"object,omitempty"` // such as the name of a target; empty for the area itself
	Status Status `json:"status"`
	Detail string `json:"detail"`           // what was seen
	Advice string `json:"advice,omitempty"` // what to do next, one sentence
}

// Check asks one thing.
type Check struct {
	Area    string
	Timeout time.Duration // 0 is [DefaultTimeout]
	Run     func(ctx context.Context) []Finding
}

// DefaultTimeout is how long a check may take that says nothing else.
const DefaultTimeout = 10 * time.Second

// Report is what all checks found.
type Report struct {
	At       time.Time      `json:"at"`
	Findings []Finding      `json:"findings"`
	Counts   map[Status]int `json:"counts"`
}

// Worst is the status that the whole report has.
func (r Report) Worst() Status {
	switch {
	case r.Counts[Failed] > 0:
		return Failed
	case r.Counts[Warning] > 0:
		return Warning
	}
	return OK
}

// atOnce bounds the checks that run at the same time.
const atOnce = 8

// Run runs the checks and reports what they found, in the order of the checks. A check
// that panics, or that does not end in its time, has failed.
func Run(ctx context.Context, checks []Check, now func() time.Time) Report {
	found := make([][]Finding, len(checks))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, c := range checks {
		group.Go(func() error {
			found[i] = c.run(ctx)
			return nil
		})
	}
	_ = group.Wait() // no check returns an error
	r := Report{At: now().UTC(), Findings: []Finding{}, Counts: map[Status]int{OK: 0, Warning: 0, Failed: 0, Skipped: 0}}
	for i, c := range checks {
		for _, f := range found[i] {
			if f.Area == "" {
				f.Area = c.Area
			}
			r.Findings = append(r.Findings, f)
			r.Counts[f.Status]++
		}
	}
	return r
}

// run runs one check within its time.
func (c Check) run(ctx context.Context) []Finding {
	timeout := c.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	done := make(chan []Finding, 1)
	go func() { // ends when the check does, at the latest when a call of the system returns
		defer func() {
			if p := recover(); p != nil {
				done <- []Finding{failed("", fmt.Sprintf("the check itself is broken: %v", p), "Report this with the output of keywarden version:\n"+string(debug.Stack()))}
			}
		}()
		done <- c.Run(ctx)
	}()
	select {
	case list := <-done:
		return list
	case <-ctx.Done():
	}
	// What ends at its deadline says more than that it did.
	const grace = 100 * time.Millisecond
	select {
	case list := <-done:
		return list
	case <-time.After(grace):
		return []Finding{failed("", "no answer within "+timeout.String(), "Look whether something hangs between this machine and what is asked.")}
	}
}

func ok(object, detail string) Finding {
	return Finding{Object: object, Status: OK, Detail: detail}
}

func warning(object, detail, advice string) Finding {
	return Finding{Object: object, Status: Warning, Detail: detail, Advice: advice}
}

func failed(object, detail, advice string) Finding {
	return Finding{Object: object, Status: Failed, Detail: detail, Advice: advice}
}

func skipped(object, detail, advice string) Finding {
	return Finding{Object: object, Status: Skipped, Detail: detail, Advice: advice}
}

// Known is a check whose findings are known already.
func Known(area string, findings ...Finding) Check {
	return Check{Area: area, Run: func(context.Context) []Finding { return findings }}
}

// Broken is a check that could not be made.
func Broken(area, detail, advice string) Check { return Known(area, failed("", detail, advice)) }

// Absent is a check of something that there is not.
func Absent(area, detail string) Check { return Known(area, skipped("", detail, "")) }
