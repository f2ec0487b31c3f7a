package config

import (
	"strings"
	"testing"
)

func TestKubernetesIsOneSourceOfThree(t *testing.T) {
	for name, c := range map[string]struct{ yaml, want string }{
		"alone":              {"gateway: {source: kubernetes, kubernetes: {addresses: [192.0.2.7, gw.example.com]}}\n", ""},
		"with a file":        {"gateway: {source: kubernetes, file: gateway.yaml}\n", "gateway.file: must be empty when gateway.source is kubernetes"},
		"of another source":  {"gateway: {kubernetes: {addresses: [192.0.2.7]}}\n", "gateway.kubernetes.addresses: means nothing unless gateway.source is kubernetes"},
		"outside, by itself": {"gateway: {source: database, kubernetes: {api_url: \"https://k\"}}\n", "gateway.kubernetes.api_url: means nothing unless gateway.source is kubernetes"},
		"misspelt":           {"gateway: {source: kubernetes, kubernetes: {adresses: [192.0.2.7]}}\n", "addresses"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := loadYAML(fromEnv(nil), c.yaml)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}
