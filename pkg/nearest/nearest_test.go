package nearest_test

import (
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/nearest"
)

func TestNameFindsWhatWasMeant(t *testing.T) {
	known := []string{"email", "password", "name", "expires_at"}
	for name, want := range map[string]string{
		"emial":                  "email", // swapped
		"Email":                  "email", // case
		"passwrd":                "password",
		"expires_it":             "expires_at",
		"role":                   "",
		"":                       "",
		"completely_else":        "",
		strings.Repeat("x", 1e4): "", // too long to be worth the search
	} {
		if got := nearest.Name(name, known); got != want {
			t.Errorf("Name(%.20q) = %q, want %q", name, got, want)
		}
	}
}

func TestQuestionIsEmptyWithoutASuggestion(t *testing.T) {
	if got := nearest.Question("nane", []string{"name"}); got != ", did you mean name?" {
		t.Errorf("got %q", got)
	}
	if got := nearest.Question("other", []string{"name"}); got != "" {
		t.Errorf("got %q", got)
	}
}
