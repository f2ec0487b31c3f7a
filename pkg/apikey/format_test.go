package apikey

import (
	"fmt"
	"hash/crc32"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// encode is the definition of a key's form, written without its helpers.
func encode(prefix string, env Environment, body string) string {
	head := prefix + "_" + string(env) + "_" + body
	sum, check := crc32.ChecksumIEEE([]byte(head)), ""
	for range checkLength {
		check = string(alphabet[sum%62]) + check
		sum /= 62
	}
	return head + check
}

func TestGeneratedKeysParse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := rapid.StringMatching(`[a-z][a-z0-9]{1,7}`).Draw(t, "prefix")
		env := rapid.SampledFrom([]Environment{Live, Test}).Draw(t, "environment")
		id := newID()
		key := newKey(prefix, env, id).Reveal()
		if got, ok := parse(prefix, key); !ok || got != id {
			t.Fatalf("%s parses as %q, %v; its id is %s", key, got, ok, id)
		}
		body := key[len(prefix)+len("_live_") : len(key)-checkLength]
		if key != encode(prefix, env, body) || len(body) != idLength+secretLength || len(key) > maxKeyBytes {
			t.Fatalf("%s is not of the form", key)
		}
	})
}

func TestEverySingleCharacterChangeIsRefused(t *testing.T) {
	key := newKey("kw", Live, newID()).Reveal()
	for i := range len(key) {
		for c := range 256 {
			if key[i] == byte(c) {
				continue
			}
			changed := []byte(key)
			changed[i] = byte(c)
			if id, ok := parse("kw", string(changed)); ok {
				t.Errorf("%q parses as %s", changed, id)
			}
		}
	}
}

func TestNearMissesAreRefused(t *testing.T) {
	key := newKey("kw", Live, newID()).Reveal()
	body := strings.TrimPrefix(key, "kw_live_")
	random := body[:idLength+secretLength]
	for name, near := range map[string]string{
		"nothing":             "",
		"prefix":              "kw",
		"prefix_":             "kw_",
		"no body":             "kw_live_",
		"one short":           key[:len(key)-1],
		"one short in front":  key[1:],
		"one long":            key + "0",
		"one long in front":   "0" + key,
		"space":               key + " ",
		"space in front":      " " + key,
		"newline":             key + "\n",
		"NUL":                 key + "\x00",
		"twice":               key + key,
		"upper case":          strings.ToUpper(key),
		"lower case":          strings.ToLower(key),
		"environment changed": "kw_test_" + body,
		"unknown environment": encode("kw", "prod", random),
		"capital environment": encode("kw", "LIVE", random),
		"no environment":      encode("kw", "", random),
		"another prefix":      encode("wk", Live, random),
		"longer prefix":       encode("kww", Live, random),
		"prefix in capitals":  encode("KW", Live, random),
		"dash for underscore": strings.ReplaceAll(key, "_", "-"),
		"id only":             encode("kw", Live, random[:idLength]),
		"secret short":        encode("kw", Live, random[:len(random)-1]),
		"secret long":         encode("kw", Live, random+"0"),
		"not base62":          encode("kw", Live, "-"+random[1:]),
		"underscore inside":   encode("kw", Live, "_"+random[1:]),
		"not ASCII":           encode("kw", Live, "é"+random[2:]),
		"swapped neighbours":  key[:len(key)-8] + string(key[len(key)-7]) + string(key[len(key)-8]) + key[len(key)-6:],
	} {
		if near == key {
			continue // two equal neighbours
		}
		if id, ok := parse("kw", near); ok {
			t.Errorf("%s: %q parses as %s", name, near, id)
		}
	}
}

func TestChecksumIsTheStandardOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "s")
		if got, want := checksum(s), crc32.ChecksumIEEE([]byte(s)); got != want {
			t.Fatalf("checksum(%q) = %08x, want %08x", s, got, want)
		}
	})
	var largest [checkLength]byte
	putCheck(largest[:], 1<<32-1)
	if got := string(largest[:]); got != "4gfFC3" {
		t.Errorf("the largest check is %s", got)
	}
}

// Pearson's chi-squared test with 61 degrees of freedom: a value above 120 has a
// probability below 10^-5. A plain modulo would give thousands.
func TestCharactersAreUniform(t *testing.T) {
	const n = 620_000
	var counts [256]int
	for _, c := range []byte(randomBase62(n)) {
		counts[c]++
	}
	const expected = float64(n) / 62
	chi, total := 0.0, 0
	for _, c := range []byte(alphabet) {
		d := float64(counts[c]) - expected
		chi += d * d / expected
		total += counts[c]
	}
	if total != n {
		t.Errorf("%d characters are not of the alphabet", n-total)
	}
	if chi > 120 {
		t.Errorf("chi-squared is %.1f", chi)
	}
}

func TestKeysDoNotRepeat(t *testing.T) {
	seen := map[string]bool{}
	for range 10_000 {
		id := newID()
		if len(id) != idLength || seen[id] {
			t.Fatalf("id %q again", id)
		}
		seen[id] = true
	}
	if newKey("kw", Live, "0123456789AB").Equal(newKey("kw", Live, "0123456789AB").Reveal()) {
		t.Error("two keys of one id are the same")
	}
}

func TestParseDoesNotAllocate(t *testing.T) {
	key := newKey("kw", Live, newID()).Reveal()
	for name, k := range map[string]string{"good": key, "bad": key[:len(key)-1] + "~", "mistyped": mistype(key)} {
		if n := testing.AllocsPerRun(1000, func() { parse("kw", k) }); n != 0 {
			t.Errorf("a %s key makes %v allocations", name, n)
		}
	}
}

func TestMintedKeysAreRedacted(t *testing.T) {
	key := newKey("kw", Live, newID())
	m := Minted{Secret: key}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if strings.Contains(fmt.Sprintf(verb, m), key.Reveal()) {
			t.Errorf("%s shows the key", verb)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "kw", "kw_live_", "kw_test_" + strings.Repeat("0", bodyLength), "wk_live_x", strings.Repeat("kw_live_", 20)} {
		f.Add("kw", seed)
	}
	f.Add("kw", newKey("kw", Live, "0123456789AB").Reveal())
	f.Add("kw", newKey("kw", Test, "zzzzzzzzzzzz").Reveal())
	f.Add("acme1", newKey("acme1", Test, "zzzzzzzzzzzz").Reveal())
	f.Fuzz(func(t *testing.T, prefix, key string) {
		id, ok := parse(prefix, key)
		if !ok {
			if id != "" {
				t.Errorf("%q is refused with id %q", key, id)
			}
			return
		}
		rest, found := strings.CutPrefix(key, prefix+"_")
		if !found {
			t.Fatalf("%q has not the prefix %q", key, prefix)
		}
		env, body, found := strings.Cut(rest, "_")
		if !found || !Environment(env).Valid() || len(body) != bodyLength || body[:idLength] != id {
			t.Fatalf("%q parses as %q", key, id)
		}
		if strings.Trim(body, alphabet) != "" {
			t.Errorf("%q is not base62", body)
		}
		if again := encode(prefix, Environment(env), body[:idLength+secretLength]); again != key {
			t.Errorf("%q is accepted, its form is %q", key, again)
		}
	})
}
