package seal_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/seal"
)

func newRing(t testing.TB, current seal.Secret, retired ...seal.Secret) *seal.Keyring {
	t.Helper()
	ring, err := seal.ParseKeyring(current, retired...)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func TestSealedValuesOpenAtTheirPlace(t *testing.T) {
	ring := newRing(t, seal.NewMasterKey())
	rapid.Check(t, func(t *rapid.T) {
		plain, place := rapid.SliceOf(rapid.Byte()).Draw(t, "plain"), rapid.String().Draw(t, "place")
		got, stale, err := ring.Open(ring.Seal(plain, place), place)
		if err != nil || stale || !bytes.Equal(got, plain) {
			t.Fatalf("%q opens as %q, stale %v, %v", plain, got, stale, err)
		}
	})
}

func TestMovedValuesDoNotOpen(t *testing.T) {
	ring := newRing(t, seal.NewMasterKey())
	rapid.Check(t, func(t *rapid.T) {
		from, to := rapid.String().Draw(t, "from"), rapid.String().Draw(t, "to")
		if from == to {
			t.Skip()
		}
		if got, _, err := ring.Open(ring.Seal([]byte("plain"), from), to); !errors.Is(err, seal.ErrTampered) || got != nil {
			t.Fatalf("moved from %q to %q it opens as %q, %v", from, to, got, err)
		}
	})
}

func TestEveryFlippedBitIsNoticed(t *testing.T) {
	ring := newRing(t, seal.NewMasterKey(), seal.NewMasterKey())
	sealed := ring.Seal([]byte("plain"), "place")
	for i := range 8 * len(sealed) {
		changed := bytes.Clone(sealed)
		changed[i/8] ^= 1 << (i % 8)
		if got, _, err := ring.Open(changed, "place"); err == nil || got != nil {
			t.Errorf("with bit %d flipped it opens as %q", i, got)
		}
	}
	for n := range len(sealed) {
		if _, _, err := ring.Open(sealed[:n], "place"); err == nil {
			t.Errorf("the first %d bytes open", n)
		}
	}
	if _, _, err := ring.Open(append(bytes.Clone(sealed), 0), "place"); !errors.Is(err, seal.ErrTampered) {
		t.Errorf("with a byte more: %v", err)
	}
}

func TestSealingTwiceGivesTwoValues(t *testing.T) {
	ring := newRing(t, seal.NewMasterKey())
	if bytes.Equal(ring.Seal([]byte("plain"), "p"), ring.Seal([]byte("plain"), "p")) {
		t.Error("the nonce is not random")
	}
}

func TestRetiredKeysOpenAndReportStale(t *testing.T) {
	old, older, current := seal.NewMasterKey(), seal.NewMasterKey(), seal.NewMasterKey()
	ring := newRing(t, current, old, older)
	for _, key := range []seal.Secret{old, older} {
		got, stale, err := ring.Open(newRing(t, key).Seal([]byte("plain"), "p"), "p")
		if err != nil || !stale || string(got) != "plain" {
			t.Errorf("%q, stale %v, %v", got, stale, err)
		}
	}
	if _, stale, err := ring.Open(ring.Seal(nil, "p"), "p"); err != nil || stale {
		t.Errorf("the current key is stale %v, %v", stale, err)
	}
}

func TestValuesUnderAnUnknownKeySaySo(t *testing.T) {
	sealed := newRing(t, seal.NewMasterKey()).Seal([]byte("plain"), "p")
	if _, _, err := newRing(t, seal.NewMasterKey()).Open(sealed, "p"); !errors.Is(err, seal.ErrUnknownKey) {
		t.Errorf("got %v", err)
	}
}

// A length byte near 255 once wrapped around and ended the program.
func TestOpenRefusesEveryLengthOfKeyID(t *testing.T) {
	ring := newRing(t, seal.NewMasterKey())
	for n := range 256 {
		for _, size := range []int{2, 2 + n, 1024} {
			sealed := make([]byte, size)
			sealed[0], sealed[1] = 1, byte(n)
			if _, _, err := ring.Open(sealed, "p"); err == nil {
				t.Errorf("a key id of %d bytes in %d opens", n, size)
			}
		}
	}
}

func TestMasterKeysAreReadInBothAlphabets(t *testing.T) {
	raw := make([]byte, seal.MasterKeySize)
	for i := range raw {
		raw[i] = byte(i*i*7 + 251) // holds bytes that the alphabets spell differently
	}
	id := newRing(t, seal.NewSecret(base64.StdEncoding.EncodeToString(raw))).ID()
	for _, text := range []string{
		base64.URLEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw),
		"  " + base64.StdEncoding.EncodeToString(raw) + "\n",
	} {
		if got := newRing(t, seal.NewSecret(text)).ID(); got != id {
			t.Errorf("%q is another key", text)
		}
	}
}

func TestWeakMasterKeysAreRefused(t *testing.T) {
	encode := base64.StdEncoding.EncodeToString
	pattern := func(f func(i int) byte) string {
		raw := make([]byte, seal.MasterKeySize)
		for i := range raw {
			raw[i] = f(i)
		}
		return encode(raw)
	}
	random, err := base64.StdEncoding.DecodeString(seal.NewMasterKey().Reveal())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty":                "",
		"blank":                "   ",
		"a word":               "changeme",
		"not base64":           strings.Repeat("ä", 22),
		"in hex":               hex.EncodeToString(random),
		"one byte short":       encode(random[:31]),
		"one byte long":        encode(append(bytes.Clone(random), 7)),
		"16 bytes":             encode(random[:16]),
		"two keys":             encode(random) + encode(random),
		"zeros":                pattern(func(int) byte { return 0 }),
		"one byte repeated":    pattern(func(int) byte { return 0xA7 }),
		"four bytes repeated":  pattern(func(i int) byte { return []byte{0xde, 0xad, 0xbe, 0xef}[i%4] }),
		"eight bytes repeated": pattern(func(i int) byte { return random[i%8] }),
		"eight values mixed": pattern(func(i int) byte {
			return "\x03\x1d\x47\x80\xa9\xc2\xe0\xff"["31415926535897932384626433832795"[i]%8]
		}),
		"counted up":            pattern(func(i int) byte { return byte(i) }), // AAECAwQF..., the key of many documents
		"counted up from one":   pattern(func(i int) byte { return byte(i + 1) }),
		"counted down":          pattern(func(i int) byte { return byte(255 - i) }),
		"counted in steps":      pattern(func(i int) byte { return byte(i * 17) }),
		"counted and repeated":  pattern(func(i int) byte { return byte(i % 16 * 3) }),
		"a phrase":              encode([]byte("correct horse battery staple 123")),
		"a phrase, as examples": encode([]byte("0123456789abcdef0123456789abcdef")),
		"letters as base64":     "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U=",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := seal.ParseKeyring(seal.NewSecret(text)); !errors.Is(err, seal.ErrWeakMasterKey) {
				t.Errorf("as the current key: %v", err)
			}
			_, err := seal.ParseKeyring(seal.NewMasterKey(), seal.NewMasterKey(), seal.NewSecret(text))
			if !errors.Is(err, seal.ErrWeakMasterKey) || !strings.Contains(err.Error(), "retired master key 2") {
				t.Errorf("as the second retired key: %v", err)
			}
			if text != "" && strings.Contains(fmt.Sprint(err), text) {
				t.Errorf("the error holds the key: %v", err)
			}
		})
	}
}

func TestNewMasterKeysAreAccepted(t *testing.T) {
	for range 2000 {
		newRing(t, seal.NewMasterKey())
	}
}

func TestEachUseAndEachMasterKeyHasAKeyOfItsOwn(t *testing.T) {
	a, b := seal.NewMasterKey(), seal.NewMasterKey()
	ring := newRing(t, a, b)
	if got := ring.IDs(); len(got) != 2 || got[0] != ring.ID() || got[0] == got[1] {
		t.Fatalf("ids %v", got)
	}
	seen := map[string]string{}
	for _, id := range ring.IDs() {
		for _, label := range []string{"", "a", "b", "seal", "key-id"} {
			key, err := ring.DeriveUnder(id, label)
			if err != nil || len(key) != 32 {
				t.Fatalf("%d bytes, %v", len(key), err)
			}
			if other, taken := seen[string(key)]; taken {
				t.Errorf("%s/%s has the key of %s", id, label, other)
			}
			seen[string(key)] = id + "/" + label
		}
	}
	current, err := ring.DeriveUnder(ring.ID(), "a")
	if err != nil || !bytes.Equal(current, ring.Derive("a")) || !bytes.Equal(current, newRing(t, a).Derive("a")) {
		t.Error("the derived key is not a function of master key and label")
	}
	if _, err := ring.DeriveUnder("unknown", "a"); !errors.Is(err, seal.ErrUnknownKey) {
		t.Errorf("an unknown id: %v", err)
	}
}

func TestKeyringIsNeverPrinted(t *testing.T) {
	key := seal.NewMasterKey()
	raw, err := base64.StdEncoding.DecodeString(key.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	ring := newRing(t, key, key)
	for _, v := range []any{ring, *ring, struct{ r seal.Keyring }{*ring}, []*seal.Keyring{ring}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%p"} {
			got := fmt.Sprintf(verb, v)
			for _, spelling := range []string{
				string(raw), hex.EncodeToString(raw[:8]), strings.Trim(fmt.Sprintf("%d", raw[:8]), "[]"), key.Reveal(),
			} {
				if strings.Contains(got, spelling) {
					t.Errorf("%s of %T shows the master key: %s", verb, v, got)
				}
			}
		}
	}
}

func FuzzOpen(f *testing.F) {
	// A fixed key: what the fuzzer keeps must open in the next process too.
	ring := newRing(f, seal.NewSecret("QvfMsVO2LM01Bhhvxn60PmLmEcSxgdVrJQRi2IBpXio="))
	sealed := ring.Seal([]byte("plain"), "place")
	f.Add(sealed, "place")
	f.Add(sealed[:20], "place")
	f.Add([]byte{}, "")
	f.Add([]byte{1, 0}, "")
	f.Add(append([]byte{1, 254}, make([]byte, 300)...), "place")
	f.Add(append([]byte{1, 255}, make([]byte, 300)...), "place")
	f.Fuzz(func(t *testing.T, data []byte, place string) {
		plain, stale, err := ring.Open(data, place)
		if err != nil {
			if plain != nil || !errors.Is(err, seal.ErrTampered) && !errors.Is(err, seal.ErrUnknownKey) {
				t.Errorf("refused with %q, %v", plain, err)
			}
			return
		}
		if place != "place" || stale || string(plain) != "plain" {
			t.Errorf("forged: %x opens at %q as %q", data, place, plain)
		}
	})
}
