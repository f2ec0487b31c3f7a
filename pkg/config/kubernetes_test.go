package config

import (
	"strings"
	"testing"
)

func TestKubernetesIsOneSourceOfThree(t *testing.T) {
	for name, c := range map[string]struct{ yaml, want string }{
		"alone":                      {"gateway: {source: kubernetes, kubernetes: {addresses: [192.0.2.7, gw.example.com]}}\n", ""},
		"with a file":                {"gateway: {source: kubernetes, file: gateway.yaml}\n", "gateway.file: must be empty when gateway.source is kubernetes"},
		"of another source":          {"gateway: {kubernetes: {addresses: [192.0.2.7]}}\n", "gateway.kubernetes.addresses: means nothing unless gateway.source is kubernetes"},
		"outside, by itself":         {"gateway: {source: database, kubernetes: {api_url: \"https://k\"}}\n", "gateway.kubernetes.api_url: means nothing unless gateway.source is kubernetes"},
		"by https":                   {"gateway: {source: kubernetes, kubernetes: {api_url: \"https://k.example.com:6443\", token_file: /t}}\n", ""},
		"by a proxy of this machine": {"gateway: {source: kubernetes, kubernetes: {api_url: \"http://127.0.0.1:8001\"}}\n", ""},
		"the token in clear text":    {"gateway: {source: kubernetes, kubernetes: {api_url: \"http://k.example.com\", token_file: /t}}\n", "gateway.kubernetes.api_url: must be an https URL"},
		"in clear text":              {"gateway: {source: kubernetes, kubernetes: {api_url: \"http://k.example.com\"}}\n", "gateway.kubernetes.api_url: must be an https URL"},
		"another scheme":             {"gateway: {source: kubernetes, kubernetes: {api_url: \"ftp://k.example.com\"}}\n", "gateway.kubernetes.api_url: must be an https URL"},
		"no URL":                     {"gateway: {source: kubernetes, kubernetes: {api_url: k.example.com}}\n", "gateway.kubernetes.api_url: must be an https URL"},
		"a password":                 {"gateway: {source: kubernetes, kubernetes: {api_url: \"https://u:p@k.example.com\"}}\n", "gateway.kubernetes.api_url: must be an https URL"},
		"a query":                    {"gateway: {source: kubernetes, kubernetes: {api_url: \"https://k.example.com?x\"}}\n", "gateway.kubernetes.api_url: must be an https URL"},
		"misspelt":                   {"gateway: {source: kubernetes, kubernetes: {adresses: [192.0.2.7]}}\n", "addresses"},
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
