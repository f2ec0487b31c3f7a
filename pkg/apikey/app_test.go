package apikey

import (
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/changes"
)

// ofApp makes a key that of an app with a subscription to the product.
func ofApp(app, product string) func(*Stored) {
	return func(s *Stored) {
		s.Key.App = app
		s.Entitled = []access.Entitlement{{Subscription: "sub", ProductID: product, Product: product, Routes: []string{"people"}}}
	}
}

func reaches(p *access.Principal) bool { return p.Grant.For("people.list") != nil }

func TestKeyOfAnAppCarriesItsGrant(t *testing.T) {
	b := newBench(t, 100)
	key, _ := b.mint(t, ofApp("app", "product"))
	plain, _ := b.mint(t)
	if p := b.wantGood(t, key); p.App != "app" || !reaches(p) {
		t.Errorf("%+v", p)
	}
	if p := b.wantGood(t, plain); p.App != "" || p.Grant != nil {
		t.Errorf("a key without an app: %+v", p)
	}
	none, _ := b.mint(t, func(s *Stored) { s.Key.App = "app" })
	if p := b.wantGood(t, none); p.App != "app" || p.Grant == nil || reaches(p) {
		t.Errorf("an app without subscriptions: %+v", p)
	}
	suspended, _ := b.mint(t, ofApp("app", "product"), func(s *Stored) { s.AppSuspended = true })
	if p := b.wantGood(t, suspended); p.App != "app" || !p.Grant.Suspended() || reaches(p) {
		t.Errorf("a suspended app: %+v", p)
	}
}

func TestChangeOfAnAppOrAProductIsSeenByTheNextRequest(t *testing.T) {
	for name, c := range map[string]struct {
		event changes.Event
		seen  bool
	}{
		"its app":         {changes.Event{Kind: changes.AppChanged, Subject: "app"}, true},
		"another app":     {changes.Event{Kind: changes.AppChanged, Subject: "other"}, false},
		"its product":     {changes.Event{Kind: changes.ProductChanged, Subject: "product"}, true},
		"another product": {changes.Event{Kind: changes.ProductChanged, Subject: "other"}, false},
		"no app":          {changes.Event{Kind: changes.AppChanged}, false},
		"no product":      {changes.Event{Kind: changes.ProductChanged}, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 100)
			key, id := b.mint(t, ofApp("app", "product"))
			plain, _ := b.mint(t)
			b.wantGood(t, key)
			b.wantGood(t, plain)
			b.store.change(id, func(s *Stored) { s.Entitled = nil })
			b.Apply(c.event)
			if p := b.wantGood(t, key); reaches(p) == c.seen {
				t.Errorf("the grant is the old one: %v", reaches(p))
			}
			b.wantGood(t, plain)
			reads := 2
			if c.seen {
				reads++
			}
			b.wantCost(t, reads, 0, 0)
		})
	}
}

// A verification that has read the subscriptions before one is revoked must not leave
// behind what it has read.
func TestGrantReadBeforeARevocationIsNotKept(t *testing.T) {
	for name, event := range map[string]changes.Event{
		"subscription": {Kind: changes.AppChanged, Subject: "app"},
		"product":      {Kind: changes.ProductChanged, Subject: "product"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 100)
			key, id := b.mint(t, ofApp("app", "product"))
			first := true
			b.store.read = func(string) {
				if !first {
					return
				}
				first = false
				b.store.change(id, func(s *Stored) { s.Entitled = nil })
				b.Apply(event)
			}
			b.wantGood(t, key) // began before
			if p := b.wantGood(t, key); reaches(p) {
				t.Error("what was read before the revocation is served after it")
			}
		})
	}
}

// A slow comparison writes its verifier into the record that it began with, which must
// not come back with the grant of before.
func TestVerifierThatIsWrittenBackRevivesNoGrant(t *testing.T) {
	b := newBench(t, 100)
	key, id := b.mint(t, ofApp("app", "product"), without)
	b.pool.comparing = func() {
		b.pool.comparing = nil
		b.store.change(id, func(s *Stored) { s.Entitled = nil })
		b.Apply(changes.Event{Kind: changes.AppChanged, Subject: "app"})
	}
	b.wantGood(t, key)
	if p := b.wantGood(t, key); reaches(p) {
		t.Error("the grant of before the revocation came back")
	}
}

func TestGrantIsNotTrustedWhenEventsMayBeMissing(t *testing.T) {
	b := newBench(t, 100)
	key, id := b.mint(t, ofApp("app", "product"))
	b.wantGood(t, key)
	b.store.change(id, func(s *Stored) { s.Entitled = nil }) // and no event arrives
	b.advance(time.Second)
	b.stale.Store(true)
	if p := b.wantGood(t, key); reaches(p) {
		t.Error("a grant is served beyond the staleness bound")
	}
}

// What the key of an app costs when it was seen before is what any other key costs.
func BenchmarkVerifyWarmOfAnApp(b *testing.B) {
	v := newBench(b, 100_000)
	key, _ := v.mint(b, ofApp("app", "product"))
	v.wantGood(b, key)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		p, err := v.VerifyKey(ctx, key, client)
		if err != nil || !reaches(p) {
			b.Fatal(err)
		}
	}
}
