package keyguard

import (
	"encoding/json"
	"hash/crc32"
	"math/big"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// made is a key by the published description alone.
func made(prefix, env string) string {
	b := []byte(prefix + "_" + env + "_")
	for range 44 {
		b = append(b, base62[rand.IntN(62)])
	}
	n, digits := big.NewInt(int64(crc32.ChecksumIEEE(b))), make([]byte, 6)
	for i := 5; i >= 0; i-- {
		var rest big.Int
		n.DivMod(n, big.NewInt(62), &rest)
		digits[i] = base62[rest.Int64()]
	}
	return string(append(b, digits...))
}

// patterns are the regular expressions as the scanners would read them from the files.
func patterns(t *testing.T, prefix string) map[string]*regexp.Regexp {
	t.Helper()
	rules, err := NewRules(prefix)
	if err != nil {
		t.Fatal(err)
	}
	var described format
	var github githubPattern
	var hog struct {
		Detectors []struct {
			Keywords []string
			Regex    map[string]string
		}
	}
	if err := json.Unmarshal(rules.Format, &described); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(rules.GitHub, &github); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(rules.TruffleHog, &hog); err != nil || len(hog.Detectors) != 1 {
		t.Fatalf("%v: %s", err, rules.TruffleHog)
	}
	_, rest, _ := strings.Cut(string(rules.Gitleaks), "regex = '''")
	gitleaks, _, _ := strings.Cut(rest, "'''")
	return map[string]*regexp.Regexp{
		"format":     regexp.MustCompile(described.Regex),
		"gitleaks":   regexp.MustCompile(gitleaks),
		"trufflehog": regexp.MustCompile(hog.Detectors[0].Regex["key"]),
		"github":     regexp.MustCompile("(?:" + github.Before + ")(" + github.Secret + ")(?:" + github.After + ")"),
	}
}

func TestRulesFindKeysAndNothingElse(t *testing.T) {
	for _, prefix := range []string{"kw", "acme_2"} {
		for name, pattern := range patterns(t, prefix) {
			for range 200 {
				key := made(prefix, []string{"live", "test"}[rand.IntN(2)])
				for _, text := range []string{key, `"` + key + `"`, "KEY=" + key + "\n", "https://x.test/?k=" + key + "&a=b", "Bearer " + key} {
					if found := pattern.FindString(text); !strings.Contains(found, key) {
						t.Fatalf("%s does not find the key in %q", name, text)
					}
				}
				for _, text := range []string{
					key[:len(key)-1], key + "a", "x" + key, "x_" + key, key + "_", strings.Replace(key, prefix, "other", 1),
					strings.Replace(strings.Replace(key, "_live_", "_prod_", 1), "_test_", "_prod_", 1),
					key[:20] + "-" + key[21:], strings.ToUpper(key),
				} {
					if found := pattern.FindString(text); found != "" {
						t.Fatalf("%s finds a key in %q", name, text)
					}
				}
			}
		}
	}
}
