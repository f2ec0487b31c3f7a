package app_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/seal"
)

// root is the top of the repository, seen from this package.
const root = "../.."

func readYAML(t *testing.T, file string, into any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Load(text, into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

type composeFile struct {
	Services map[string]struct {
		Image       string
		Build       any
		Ports       []string
		Environment map[string]string
		DependsOn   any `yaml:"depends_on"`
		Networks    []string
		Volumes     []string
	}
	Networks map[string]struct{ Driver string }
}

func TestComposeFileHasWhatThePlatformNeeds(t *testing.T) {
	var c composeFile
	readYAML(t, "docker-compose.yml", &c)
	for _, name := range []string{"app", "postgres", "redis", "swagger-ui", "jaeger", "prometheus", "alertmanager", "grafana", "usersvc", "productsvc"} {
		s, ok := c.Services[name]
		if !ok {
			t.Errorf("no service %s", name)
			continue
		}
		if !slices.Equal(s.Networks, []string{"platform"}) {
			t.Errorf("service %s is in networks %v", name, s.Networks)
		}
	}
	if driver := c.Networks["platform"].Driver; driver != "bridge" {
		t.Errorf("the network's driver is %q, want bridge", driver)
	}
	app := c.Services["app"]
	if !slices.Contains(app.Ports, "127.0.0.1:8080:8080") {
		t.Errorf("app publishes %v, want port 8080", app.Ports)
	}
	for _, name := range []string{"DB_HOST", "DB_PORT", "POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB", "KEYWARDEN_MASTER_KEY"} {
		if app.Environment[name] == "" {
			t.Errorf("app has no %s", name)
		}
	}
	if app.DependsOn == nil {
		t.Error("app depends on nothing")
	}
}

// given is a value of docker-compose.yml where the environment of docker compose is
// empty: ${NAME:-default} and ${NAME-default} are their defaults.
func given(text string) string {
	return regexp.MustCompile(`\$\{\w+:?-([^}]*)\}`).ReplaceAllString(text, "$1")
}

// The variables of the compose file are read by the program itself, which refuses
// what it does not know, with the files that make secrets writes.
func TestComposeFileSaysWhatTheProgramUnderstands(t *testing.T) {
	var c composeFile
	readYAML(t, "docker-compose.yml", &c)
	folder := t.TempDir()
	secrets := map[string]string{
		"master_key": seal.NewMasterKey().Reveal(), "postgres_password": "p@ss/word", "redis_url": "redis://:secret@redis:6379/0",
	}
	for name, text := range secrets {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Read by OpenTelemetry's library and by the runtime of Go.
	elsewhere := []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "GOMEMLIMIT"}
	var known []string
	for _, row := range config.Describe() {
		known = append(known, append([]string{row.Env}, row.Aliases...)...)
	}
	known = append(known, "DB_HOST", "DB_PORT", "POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB")
	set := map[string]string{}
	var environ []string
	for name, text := range c.Services["app"].Environment {
		if !slices.Contains(known, name) && !slices.Contains(known, strings.TrimSuffix(name, "_FILE")) && !slices.Contains(elsewhere, name) {
			t.Errorf("app has %s, which nobody reads", name)
		}
		set[name] = strings.Replace(given(text), "/run/secrets", folder, 1)
		environ = append(environ, name)
	}
	cfg, err := config.Load(config.Source{
		Lookup:  func(name string) (string, bool) { v, ok := set[name]; return v, ok },
		Environ: environ, Serving: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := cfg.Database.URL.Reveal(), "postgres://keywarden:p%40ss%2Fword@postgres:5432/keywarden"; got != want {
		t.Errorf("the database is %s, want %s", got, want)
	}
	if got := cfg.Redis.URL.Reveal(); got != secrets["redis_url"] {
		t.Errorf("Redis is %s", got)
	}
	if got := cfg.Security.MasterKey.Reveal(); got != secrets["master_key"] {
		t.Error("the master key is not the one of the file")
	}
}

// A mounted file that does not exist becomes an empty directory in the container.
func TestComposeFileMountsWhatExists(t *testing.T) {
	var c composeFile
	readYAML(t, "docker-compose.yml", &c)
	for name, s := range c.Services {
		for _, volume := range s.Volumes {
			source, _, _ := strings.Cut(volume, ":")
			if source[0] != '.' {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, source)); err != nil {
				t.Errorf("service %s mounts %s: %v", name, source, err)
			}
		}
	}
}

func TestPrometheusScrapesTheApp(t *testing.T) {
	var p struct {
		ScrapeConfigs []struct {
			JobName       string                       `yaml:"job_name"`
			MetricsPath   string                       `yaml:"metrics_path"`
			StaticConfigs []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	readYAML(t, "configs/prometheus/prometheus.yml", &p)
	for _, job := range p.ScrapeConfigs {
		if job.JobName == "api-security-platform" && job.MetricsPath == "/metrics" &&
			len(job.StaticConfigs) == 1 && slices.Equal(job.StaticConfigs[0].Targets, []string{"app:8080"}) {
			return
		}
	}
	t.Errorf("no job api-security-platform for app:8080/metrics in %+v", p.ScrapeConfigs)
}
