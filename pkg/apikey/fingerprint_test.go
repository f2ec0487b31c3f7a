package apikey

import (
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
)

// What is compared is not the whole text of the key: no part may be left out all the same.
func TestAKnownKeyIsToldFromEveryOtherText(t *testing.T) {
	b := newBench(t, 100)
	key, _ := b.mint(t)
	b.wantGood(t, key)
	b.wantGood(t, key)
	for at := range len(key) {
		for _, c := range []byte("0Zz_~") {
			if other := key[:at] + string(c) + key[at+1:]; other != key {
				b.wantRefused(t, other, access.ErrKey)
			}
		}
	}
	body := key[len("kw_live_"):]
	for _, other := range []string{
		"", "kw", key[1:], key[:len(key)-1], key + "0", "k" + key, "kw_test_" + body, "kw-live-" + body, "xx_live_" + body, "kw_live" + body + "_",
		strings.ToUpper(key), encode("kw", Test, body[:len(body)-checkLength]),
	} {
		b.wantRefused(t, other, access.ErrKey)
	}
	b.wantGood(t, key)
}

func TestBothSecretsOfARotatedKeyAreRecognisedUntilTheGraceEnds(t *testing.T) {
	b := newBench(t, 100)
	oldest, publicID := b.mint(t)
	var older, key string
	b.store.change(publicID, func(s *Stored) {
		older = b.addSecret(t, s, at(time.Hour))
		key = b.addSecret(t, s, at(time.Hour))
	})
	for range 2 {
		for _, good := range []string{key, older, oldest} {
			b.wantGood(t, good)
		}
		b.wantRefused(t, wrong(key), access.ErrKey)
	}
	if !raceEnabled {
		n := testing.AllocsPerRun(100, func() {
			for _, good := range []string{key, older, oldest} {
				b.wantGood(t, good)
			}
		})
		if n != 0 {
			t.Errorf("three known secrets in turn make %v allocations", n)
		}
	}
	b.advance(time.Hour)
	b.wantGood(t, key)
	for _, ended := range []string{older, oldest, wrong(key)} {
		b.wantRefused(t, ended, access.ErrKey)
	}
	b.wantCost(t, 1, 0, 0)
}

// A wrong text must cost no more than the right one: with all secrets known, none of them
// is worked out by the slow way.
func TestAWrongTextIsRefusedByTheFingerprintAlone(t *testing.T) {
	b := newBench(t, 100)
	key, publicID := b.mint(t)
	if r, _ := b.recognise(key, b.now()); r != nil {
		t.Fatal("a key that nobody has shown is recognised")
	}
	b.wantGood(t, key)
	if r, right := b.recognise(key, b.now()); r == nil || !right {
		t.Error("a key that was shown is not recognised")
	}
	if r, right := b.recognise(wrong(key), b.now()); r == nil || right {
		t.Error("a wrong text is not told from the right one")
	}
	b.stale.Store(true)
	if r, _ := b.recognise(key, b.now()); r != nil {
		t.Error("a record that may not be trusted is used")
	}
	b.stale.Store(false)
	b.records.Invalidate(publicID)
	if r, _ := b.recognise(key, b.now()); r != nil {
		t.Error("a record that is gone is used")
	}
}
