package lookalike

import (
	"encoding/base64"
	"strings"
	"testing"
)

func TestKeysAreRecognisedWhateverTheirPrefix(t *testing.T) {
	tail := strings.Repeat("aB3", 17)[:50]
	for text, want := range map[string]bool{
		"kw_live_" + tail: true, "Bearer acme_test_" + tail + ",": true, "x kw_live_" + tail[:minKeyTail]: true,
		"kw_live_" + tail[:minKeyTail-1]: false, "kw_live_" + strings.Repeat("a", maxKeyTail+1): false, "kw_prod_" + tail: false, tail: false, "": false,
		"_live_ _test_" + tail: true,
	} {
		if Key(text) != want {
			t.Errorf("%q: %t", text, !want)
		}
	}
}

func TestTokensAreRecognisedByTheirIssuer(t *testing.T) {
	token := func(claims string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	own := token(`{"iss":"https://keys.example.com"}`)
	for text, want := range map[string]bool{
		"Bearer " + own: true, `Custom token="` + own + `"`: true, token(`{"iss":"https://other.example.com"}`): false,
		"Bearer e30.%%.x": false, token(`{"iss":1}`): false, "e30." + strings.Repeat("a", maxTokenBytes+1) + ".x": false,
	} {
		if Token(text, "https://keys.example.com") != want {
			t.Errorf("%q: %t", text, !want)
		}
	}
	if Token(own, "") {
		t.Error("a token of nobody's was recognised")
	}
}
