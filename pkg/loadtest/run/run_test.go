package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/keywarden/keywarden/pkg/loadtest"
	"github.com/keywarden/keywarden/pkg/spec"
)

// result is a mix whose requests took so long, 100 in all.
func result(m mix, took time.Duration, failures map[string]int) measured {
	r := &loadtest.Result{Failures: failures, Took: time.Second}
	for range 100 {
		r.Sent++
		r.Latency.Add(took)
	}
	for _, n := range failures {
		r.Failed += int64(n)
	}
	return measured{mix: m, Result: r, rate: 100, p95: 50 * time.Millisecond, p99: 100 * time.Millisecond, span: time.Second}
}

func TestVerdictHoldsEveryBound(t *testing.T) {
	plain := mix{name: "plain"}
	slowTail := result(plain, time.Millisecond, nil)
	for range 4 { // of 104: beyond the 95th percentile, and not beyond the 99th
		slowTail.Latency.Add(150 * time.Millisecond)
	}
	login := func(took, hash time.Duration) measured {
		m := result(mix{name: "login", hashes: true}, took, nil)
		m.hash = result(plain, hash, nil).Result
		return m
	}
	few := login(400*time.Millisecond, 400*time.Millisecond)
	few.hash.Sent = 99
	wrongHash := login(400*time.Millisecond, 400*time.Millisecond)
	wrongHash.hash.Failures = map[string]int{"mismatch": 3}
	limited := mix{name: "limited", refusing: 10}
	passing := func(n int64) measured {
		m := result(limited, time.Millisecond, nil)
		m.passed = n
		return m
	}
	for name, c := range map[string]struct {
		m    measured
		says string // empty: all is well
	}{
		"fast":               {result(plain, 49*time.Millisecond, nil), ""},
		"at the bound":       {result(plain, 50*time.Millisecond, nil), "95th percentile"},
		"slow":               {result(plain, 100*time.Millisecond, nil), "99th percentile"},
		"slow at its end":    {slowTail, "99th percentile"},
		"one failed":         {result(plain, time.Millisecond, map[string]int{"status 502": 1}), "1 times: status 502"},
		"nothing sent":       {measured{mix: plain, Result: &loadtest.Result{}}, "nothing was sent"},
		"hash":               {login(440*time.Millisecond, 400*time.Millisecond), ""},
		"slow beyond a hash": {login(470*time.Millisecond, 400*time.Millisecond), "95th percentile is 70.0 ms beyond that of a hash alone, want less than 50.0 ms"},
		"end beyond a hash":  {login(510*time.Millisecond, 400*time.Millisecond), "99th percentile is 110.0 ms beyond that of a hash alone, want less than 100.0 ms"},
		"faster than a hash": {login(390*time.Millisecond, 400*time.Millisecond), ""},
		"too few hashes":     {few, "100 requests and 99 hashes alone are too few"},
		"wrong hashes":       {wrongHash, "a hash alone, 3 times: mismatch"},
		"limit held":         {passing(20), ""},
		"limit without hold": {passing(30), "30 requests passed"},
		"limit too tight":    {passing(5), "5 requests passed"},
	} {
		t.Run(name, func(t *testing.T) {
			err := verdict([]measured{c.m})
			if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%v, want %q", err, c.says)
			}
		})
	}
}

func TestHashesAloneAreMadeAtTheRateAndChecked(t *testing.T) {
	for secret, failed := range map[string]bool{password: false, "another": true} {
		hashed, err := bcrypt.GenerateFromPassword([]byte(secret), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		r := hashesAlone(t.Context(), 200, 50*time.Millisecond, 250*time.Millisecond, hashed)
		if r.Sent != 50 || (r.Failed > 0) != failed {
			t.Errorf("of %d hashes %d failed: %v", r.Sent, r.Failed, r.Failures)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if r := hashesAlone(ended, 1, 0, time.Hour, nil); r.Sent != 0 {
		t.Errorf("%d hashes after the end", r.Sent)
	}
}

func TestReportNamesBoundsAndFigures(t *testing.T) {
	login := result(mix{name: "login", what: "sign in", hashes: true}, 20*time.Millisecond, map[string]int{"x": 2})
	login.hash = result(mix{}, 12500*time.Microsecond, nil).Result
	limits := result(mix{name: "limits", what: "one key", refusing: 10}, time.Millisecond, nil)
	limits.passed = 20
	text := report([]measured{login, limits}, settings{p95: 50 * time.Millisecond, p99: 100 * time.Millisecond, rates: rates{}})
	for _, want := range []string{
		"| login: sign in | 100 | 20.0 ms | 20.0 ms | 20.0 ms | 20.0 ms | 50 and 100 ms more than a hash alone; it is 7.5 ms and 7.5 ms more | 2 of 100 |\n| a hash alone, in turn with those | 100 | 12.5 ms | 12.5 ms | 12.5 ms | 12.5 ms |  | 0 of 100 |",
		"| limits: one key; 20 of 100 passed | 100 | 1.0 ms |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
}

func TestRatesAreGivenByMix(t *testing.T) {
	r := rates{"login": 1, "key": 2, "proxy": 3, "limits": 4}
	if err := r.Set("key=500,proxy=0"); err != nil || r.String() != "login=1,key=500,proxy=0,limits=4" {
		t.Errorf("%s, %v", r, err)
	}
	for _, text := range []string{"keys=1", "key", "key=fast", "key=-1", "key=NaN", ""} {
		if err := r.Set(text); err == nil {
			t.Errorf("%q was taken: %s", text, r)
		}
	}
	if err := r.Set("keys=1"); err == nil || errors.Unwrap(err) != nil || !strings.Contains(err.Error(), "login, key, proxy and limits") {
		t.Errorf("%v", err)
	}
}

// The document of the load is one that the gateway takes, with the routes that the
// mixes ask for.
func TestDocumentHasTheRoutesOfTheMixes(t *testing.T) {
	text, err := os.ReadFile("../../../" + document)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := spec.Parse(document, text)
	if err != nil {
		t.Fatal(err)
	}
	var prefixes []string
	for _, r := range doc.Routes {
		prefixes = append(prefixes, r.Match.Path.Prefix)
	}
	s := &site{addr: "gateway.test", users: []user{{email: "a@example.com", token: "t", key: "k"}}}
	for _, m := range mixes {
		for _, c := range m.calls(s) {
			req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(c.request)))
			if err != nil {
				t.Fatalf("%s: %v in %q", m.name, err, c.request)
			}
			routed := slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(req.URL.Path, p) })
			if want := m.name == "proxy" || m.name == "limits"; routed != want {
				t.Errorf("%s: %s %s is for a route: %t", m.name, req.Method, req.URL, routed)
			}
		}
	}
	limits := doc.Routes[2].RateLimit
	if limits == nil || len(limits.Limits) != 1 {
		t.Fatalf("the limits of the route: %+v", limits)
	}
	if l := limits.Limits[0].Arithmetic(); l.Quota != limitRate || l.Window != time.Second || l.Burst != limitRate {
		t.Errorf("the limit of the route is %+v, the mix expects %d a second", l, limitRate)
	}
}
