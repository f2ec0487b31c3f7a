package keyguard

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/throttle"
)

// world proves and keeps what it is told to.
type world struct {
	err         error // of a proof
	proof       apikey.Proof
	proved      int
	quarantined []string
	notified    []changes.Event
}

func (w *world) Prove(context.Context, string, netip.Addr) (apikey.Proof, error) {
	w.proved++
	return w.proof, w.err
}

func (w *world) QuarantineKey(_ context.Context, id, secretID, note string, _ time.Time, _ changes.Change) error {
	w.quarantined = append(w.quarantined, id+" "+secretID+" "+note)
	return nil
}

func (w *world) ReleaseKey(context.Context, string, time.Time, changes.Change) (apikey.Key, error) {
	return apikey.Key{}, nil
}

func (w *world) Key(context.Context, string) (apikey.Key, error) { return apikey.Key{}, nil }

func (w *world) service(t *testing.T, burst int) *Service {
	t.Helper()
	limit, err := throttle.New(burst, time.Hour, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return New(Options{Prover: w, Keys: w, Reports: limit, Notify: func(e changes.Event) { w.notified = append(w.notified, e) }, Now: time.Now})
}

func TestReportTellsNothingToWhoHoldsNoKey(t *testing.T) {
	proof := apikey.Proof{KeyID: "k", PublicID: "p", SecretID: "s"}
	trap := proof
	trap.Canary = true
	for _, c := range []struct {
		name  string
		proof apikey.Proof
		err   error
		want  error
		acts  bool
	}{
		{"good", proof, nil, nil, true},
		{"canary", trap, nil, nil, false},
		{"not good", apikey.Proof{}, access.ErrKey, nil, false},
		{"undecided", apikey.Proof{}, access.ErrUndecided, access.ErrUndecided, false},
		{"guessed too often", apikey.Proof{}, access.ErrThrottled, access.ErrThrottled, false},
	} {
		w := &world{proof: c.proof, err: c.err}
		err := w.service(t, 9).Report(t.Context(), seal.NewSecret("key"), " note ", netip.MustParseAddr("192.0.2.1"))
		if !errors.Is(err, c.want) || c.want == nil && err != nil || (len(w.quarantined) == 1 && w.quarantined[0] == "k s note" && len(w.notified) == 1) != c.acts {
			t.Errorf("%s: error %v, quarantined %q, events %v", c.name, err, w.quarantined, w.notified)
		}
	}
}

func TestReportsAreLimitedByAddress(t *testing.T) {
	w := &world{err: access.ErrKey}
	s := w.service(t, 2)
	for i, want := range []error{nil, nil, access.ErrThrottled, access.ErrThrottled} {
		if err := s.Report(t.Context(), seal.NewSecret("key"), "", netip.MustParseAddr("192.0.2.1")); !errors.Is(err, want) {
			t.Errorf("report %d: %v", i, err)
		}
	}
	if err := s.Report(t.Context(), seal.NewSecret("key"), "", netip.MustParseAddr("192.0.2.2")); err != nil || w.proved != 3 {
		t.Errorf("another address: %v; %d keys were looked at", err, w.proved)
	}
}

func TestNotesAreBounded(t *testing.T) {
	for _, note := range []string{"a\nb", "\xff", strings.Repeat("ä", 201), "\u202e"} {
		w := &world{}
		err := w.service(t, 9).Report(t.Context(), seal.NewSecret("key"), note, netip.MustParseAddr("192.0.2.1"))
		if problem.From(err).Code != problem.ErrInvalid.Code || w.proved != 0 {
			t.Errorf("%q: %v", note, err)
		}
	}
}
