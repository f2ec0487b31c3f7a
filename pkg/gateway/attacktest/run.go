package attacktest

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
)

// controlArea holds the cases that show the fixture works.
const controlArea = "CTRL"

// defaultTimeout is how long a raw step waits for its responses.
const defaultTimeout = 2500 * time.Millisecond

// Env says where the gateway is and what the cases need to know about it. Only
// loopback addresses are accepted.
type Env struct {
	// GatewayAddr is the data plane, "127.0.0.1:18080".
	GatewayAddr string
	// APIBase is the management API, "http://127.0.0.1:18080"; when empty, it is
	// where the data plane is.
	APIBase string
	// Vars are values for {{NAME}}. The cases need KEY_A and KEY_B, live API
	// keys of two users. HOST, RAND (fresh for each case), KEY_A_SHORT (one
	// character less) and KEY_A_UPPER (letters' case swapped) are made here.
	Vars map[string]string
	// Paths say where the API's answers hold what a case captures, as dotted
	// JSON paths: token_path, key_id_path, key_secret_path.
	Paths map[string]string
	// Timeout is how long a raw step waits for its responses after its last
	// byte was sent; 2.5 s when zero. A step may set its own.
	Timeout time.Duration
}

// Run runs each case as a subtest named by its id. The cases of area CTRL come
// first and there must be some; when one fails, no other case runs. Cases run
// one after the other, because the backend's records are told apart by time.
// Cases that the runner cannot carry out are skipped, each saying why.
func Run(t *testing.T, env Env, up *Upstream, cases []Case) {
	t.Helper()
	if err := env.check(); err != nil {
		t.Fatalf("attack environment: %v", err)
	}
	isControl := func(c Case) bool { return c.Area == controlArea }
	if !slices.ContainsFunc(cases, isControl) {
		t.Fatalf("no case of area %s among the %d given: a gateway that refuses everything would pass", controlArea, len(cases))
	}
	healthy := true
	for _, c := range cases {
		if isControl(c) && !t.Run(c.ID, c.test(env, up)) {
			healthy = false
		}
	}
	if !healthy {
		t.Logf("a case of area %s failed, so no other result would mean anything", controlArea)
		t.FailNow()
	}
	for _, c := range cases {
		if !isControl(c) {
			t.Run(c.ID, c.test(env, up))
		}
	}
}

// test is c as a subtest.
func (c Case) test(env Env, up *Upstream) func(*testing.T) {
	return func(t *testing.T) {
		switch {
		case c.Kind == KindH2:
			t.Skip("needs a TLS listener and an HTTP/2 frame writer, which the runner does not have")
		case !c.Runnable():
			t.Skipf("kind %s is carried out by a test of its own: %s", c.Kind, c.Expected)
		}
		failed := c.execute(t.Context(), env, up)
		if len(failed) == 0 {
			return
		}
		t.Errorf("%s (%s)\n  %s\nexpected: %s\nsources: %s", c.Title, c.Severity,
			strings.Join(failed, "\n  "), c.Expected, strings.Join(c.Source, "; "))
	}
}

// check refuses addresses off this machine: the cases are attacks.
func (e Env) check() error {
	if err := loopback(e.GatewayAddr); err != nil {
		return fmt.Errorf("GatewayAddr: %w", err)
	}
	u, err := url.Parse(e.apiBase())
	if err != nil {
		return fmt.Errorf("APIBase: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("APIBase: want a http or https URL, got %q", e.APIBase)
	}
	if err := loopback(u.Host); err != nil {
		return fmt.Errorf("APIBase: %w", err)
	}
	return nil
}

// loopback accepts host:port with a host that is this machine.
func loopback(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("%q is not a loopback address", addr)
	}
	return nil
}

// apiBase is APIBase or its default.
func (e Env) apiBase() string { return cmp.Or(e.APIBase, "http://"+e.GatewayAddr) }

// variables are Vars and what is derived from them, for one case.
func (e Env) variables() variables {
	vars := variables{}
	maps.Copy(vars, e.Vars)
	if key := vars["KEY_A"]; key != "" {
		vars["KEY_A_SHORT"] = cmp.Or(vars["KEY_A_SHORT"], key[:len(key)-1])
		vars["KEY_A_UPPER"] = cmp.Or(vars["KEY_A_UPPER"], swapCase(key))
	}
	vars["HOST"] = e.GatewayAddr
	vars["RAND"] = randomHex(6)
	return vars
}

// swapCase turns lower case into upper case and the other way round.
func swapCase(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsUpper(r) {
			return unicode.ToLower(r)
		}
		return unicode.ToUpper(r)
	}, s)
}

// randomHex is 2n characters that no other case has.
func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// execute runs c's steps and returns every expectation that did not hold. A
// step that could not be carried out ends the case.
func (c Case) execute(ctx context.Context, env Env, up *Upstream) failures {
	up.oneCase.Lock()
	defer up.oneCase.Unlock()
	a := attempt{env: env, up: up, vars: env.variables()}
	for i := range max(len(c.raw), len(c.http)) {
		a.step = i
		var err error
		if c.Kind == KindRaw {
			err = a.rawStep(ctx, c.raw[i])
		} else {
			err = a.httpStep(ctx, c.http[i])
		}
		if err != nil {
			a.fail("not carried out: %v", err)
			break
		}
	}
	return a.failed
}

// attempt is one run of one case.
type attempt struct {
	env    Env
	up     *Upstream
	vars   variables
	step   int
	failed failures

	// refused says that a step was answered with a refusal that the case allows
	// as well as a success.
	refused bool
}

// fail notes a failure of the present step.
func (a *attempt) fail(format string, args ...any) {
	a.failed.add("step %d: %s", a.step, fmt.Sprintf(format, args...))
}

// rawStep sends bytes and judges what came of them.
func (a *attempt) rawStep(ctx context.Context, s rawStep) error {
	payload, err := a.vars.substitute(s.payload, verbatim)
	if err != nil {
		return err
	}
	if payload, err = expandRepeats(payload); err != nil {
		return err
	}
	timeout := cmp.Or(seconds(s.Timeout), a.env.Timeout, defaultTimeout)
	return a.judge(ctx, s.Expect, func() (exchange, error) {
		return sendRaw(ctx, a.env.GatewayAddr, payload, s.Pace, s.want(), timeout)
	})
}

// httpStep calls the management API, captures from the answer and judges it.
func (a *attempt) httpStep(ctx context.Context, s httpStep) error {
	return a.judge(ctx, s.Expect, func() (exchange, error) {
		answer, err := callAPI(ctx, a.env.apiBase(), s, a.vars)
		if err != nil {
			return exchange{}, err
		}
		a.refused = a.refused || allowedRefusal(s.Expect, answer.Status)
		return exchange{responses: []Response{answer}}, a.capture(s.Capture, answer)
	})
}

// allowedRefusal reports whether status is a refusal where expect would take a
// success as well: the attack has found nothing to work on.
func allowedRefusal(expect []byte, status int) bool {
	want, err := parseExpectation(expect, nil)
	success := func(s int) bool { return s >= 200 && s < 300 }
	return err == nil && !success(status) && slices.Contains(want.StatusIn, status) && slices.ContainsFunc(want.StatusIn, success)
}

// nothing is captured where there is nothing after an allowed refusal. It is no
// token, key or id of anything.
const nothing = "nothing"

// capture keeps values of answer as variables for the steps that follow. A value
// that is missing is an error, unless the case allowed an earlier step to be
// refused and this is the consequence.
func (a *attempt) capture(wanted map[string]string, answer Response) error {
	var errs []error
	for name, path := range wanted {
		value, err := capture(answer.Body, cmp.Or(a.env.Paths[path], path))
		if err != nil && a.refused {
			value, err = nothing, nil
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("capture %s: %w (status %d)", name, err, answer.Status))
			continue
		}
		a.vars[name] = value
	}
	return errors.Join(errs...)
}

// judge runs do and holds what the client and the backend saw against expect.
func (a *attempt) judge(ctx context.Context, expect []byte, do func() (exchange, error)) error {
	mark, start := a.up.Mark(), time.Now()
	ex, err := do()
	if err != nil {
		return err
	}
	elapsed := time.Since(start)
	want, err := parseExpectation(expect, a.vars)
	if err != nil {
		return err
	}
	a.up.Settle(ctx)
	seen := observation{responses: ex.responses, closed: ex.closed, upstream: a.up.Since(mark), elapsed: elapsed}
	for _, f := range want.check(&seen) {
		a.fail("%s", f)
	}
	return nil
}
