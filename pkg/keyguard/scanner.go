package keyguard

import (
	"encoding/json"
	"strconv"

	"github.com/keywarden/keywarden/pkg/apikey"
)

// Rules tell scanners for leaked secrets what keys of this installation look like,
// each in the form of one kind of scanner.
type Rules struct {
	Format     []byte // JSON: a description for any scanner
	Gitleaks   []byte // TOML: a configuration for gitleaks
	TruffleHog []byte // YAML: a custom detector for TruffleHog
	GitHub     []byte // JSON: the fields of a custom pattern of GitHub secret scanning
}

// format is what Rules.Format says.
type format struct {
	Name     string   `json:"name"`
	Regex    string   `json:"regex"`
	Keywords []string `json:"keywords"`
	Checksum checksum `json:"checksum"`
	Report   report   `json:"report"`
}

type checksum struct {
	Algorithm string `json:"algorithm"`
	Over      string `json:"over"`
	Encoding  string `json:"encoding"`
	Alphabet  string `json:"alphabet"`
	Length    int    `json:"length"`
}

type report struct {
	Method string `json:"method"`
	Path   string `json:"path"`
	Body   string `json:"body"`
}

// githubPattern are the fields of a custom pattern of GitHub, under the names that
// they have there.
type githubPattern struct {
	Name   string `json:"name"`
	Secret string `json:"secret_format"`
	Before string `json:"before_secret"`
	After  string `json:"after_secret"`
}

// NewRules makes the rules for keys that begin with prefix, which is that of the
// configuration: letters, digits and underscores.
func NewRules(prefix string) (Rules, error) {
	pattern := apikey.Pattern(prefix)
	bounded := `\b(` + pattern + `)\b`
	live, test := prefix+"_live_", prefix+"_test_"
	described, err := json.MarshalIndent(format{
		Name: "Keywarden API key", Regex: `\b` + pattern + `\b`, Keywords: []string{live, test},
		Checksum: checksum{
			Algorithm: "CRC-32 (IEEE 802.3)",
			Over:      "every byte of the key before the checksum, prefix included",
			Encoding:  "base62, most significant digit first, padded on the left with the first letter of the alphabet",
			Alphabet:  "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", Length: 6,
		},
		Report: report{Method: "POST", Path: "/keys/report", Body: `{"key": "<key>"}`},
	}, "", "  ")
	if err != nil {
		return Rules{}, err
	}
	github, err := json.MarshalIndent(githubPattern{
		Name: "Keywarden API key", Secret: pattern, Before: `\A|[^0-9A-Za-z_]`, After: `\z|[^0-9A-Za-z_]`,
	}, "", "  ")
	if err != nil {
		return Rules{}, err
	}
	return Rules{
		Format: append(described, '\n'), GitHub: append(github, '\n'),
		Gitleaks: []byte(`title = "Keywarden API keys"

[extend]
useDefault = true

[[rules]]
id = "keywarden-api-key"
description = "Keywarden API key"
regex = '''` + bounded + `'''
secretGroup = 1
entropy = 3
keywords = [` + strconv.Quote(live) + `, ` + strconv.Quote(test) + `]
`),
		TruffleHog: []byte(`detectors:
  - name: KeywardenApiKey
    keywords:
      - ` + live + `
      - ` + test + `
    regex:
      key: '` + bounded + `'
`),
	}, nil
}
