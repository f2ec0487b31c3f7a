package app_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
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
	for _, name := range []string{"app", "postgres", "redis", "swagger-ui", "jaeger", "prometheus", "grafana", "usersvc", "productsvc"} {
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
