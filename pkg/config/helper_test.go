package config

import (
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/seal"
)

// fromEnv is a Source with the given environment.
func fromEnv(env map[string]string) Source {
	return Source{
		Lookup:  func(name string) (string, bool) { text, ok := env[name]; return text, ok },
		Environ: slices.Collect(maps.Keys(env)),
	}
}

// loadYAML loads src with a file of the given content, named keywarden.yaml.
func loadYAML(src Source, content string) (*Config, error) {
	src.File = "keywarden.yaml"
	return load(src, func(string) ([]byte, error) { return []byte(content), nil })
}

// writeTemp makes a file and returns its path.
func writeTemp(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "value")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// mustLoad fails the test on an error of [Load].
func mustLoad(t *testing.T, cfg *Config, err error) *Config {
	t.Helper()
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	return cfg
}

// wantErrors compares the lines of an error of [Load].
func wantErrors(t *testing.T, err error, want ...string) {
	t.Helper()
	var got []string
	if err != nil {
		got = strings.Split(err.Error(), "\n")
		if _, ok := errors.AsType[Errors](err); !ok {
			t.Errorf("error is %T, want Errors", err)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
}

// wantConfig compares two configurations, secrets by what they hold.
func wantConfig(t *testing.T, want, got *Config) {
	t.Helper()
	if diff := cmp.Diff(want, got, compareSecrets(), compareNetworks()); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
}

func compareSecrets() cmp.Option {
	return cmp.Comparer(func(a, b seal.Secret) bool { return a.Equal(b.Reveal()) })
}

func compareNetworks() cmp.Option {
	return cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
}
