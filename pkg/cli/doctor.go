package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/keywarden/keywarden/pkg/app"
	"github.com/keywarden/keywarden/pkg/cli/document"
	"github.com/keywarden/keywarden/pkg/cli/shell"
	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/doctor"
	"github.com/keywarden/keywarden/pkg/kubernetes/apiserver"
	"github.com/keywarden/keywarden/pkg/pglocal"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/store/redis"
)

func (c *command) doctor() *cobra.Command {
	var noTargets bool
	cmd := c.WithOutput(&cobra.Command{
		Use:   "doctor",
		Short: "Check everything an instance needs, and say what to do",
		Long: `Check the configuration, the database with its schema and its privileges, clocks, the
master key, Redis, certificates, the gateway document and its targets, the API server of
Kubernetes where routes are made of its objects, listeners, files and limits of this
machine, and the instance that runs here, if there is one. Nothing is changed, and no
secret is printed. One check that fails hides no other.

Exit codes: 0 nothing to do; 1 warnings; 2 something failed, or the command line is wrong.`,
		Example: `  keywarden doctor --config configs/keywarden.yaml
  keywarden doctor -o json | jq -r '.findings[] | select(.status == "failed") | .advice'
  keywarden doctor --no-targets     # do not ask the services of the gateway document`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			redis.LogTo(slog.New(slog.DiscardHandler), time.Now) // what it says of a Redis that is away is a finding
			report := doctor.Run(cmd.Context(), c.checks(cmd.Context(), !noTargets), time.Now)
			if err := c.Print(report, func(w io.Writer) { writeReport(w, report) }); err != nil {
				return err
			}
			switch report.Worst() {
			case doctor.Failed:
				return shell.Exit(2)
			case doctor.Warning:
				return shell.Exit(1)
			default:
				return nil
			}
		},
	})
	cmd.Flags().BoolVar(&noTargets, "no-targets", false, "do not connect to the services of the gateway document")
	return cmd
}

// checks are all of them. Without a configuration there is nothing to look at.
func (c *command) checks(ctx context.Context, targets bool) []doctor.Check {
	cfg, err := c.Load(false, nil)
	if err != nil {
		return []doctor.Check{doctor.Broken("configuration", err.Error(), "Correct it; keywarden config print --defaults has every option.")}
	}
	checks := []doctor.Check{doctor.Configuration(cfg)}
	checks = append(checks, c.databaseChecks(cfg)...)
	checks = append(checks, doctor.Redis(cfg.Redis.URL, cfg.Redis.Cluster, cfg.Redis.Timeout, time.Now))
	probe := doctor.Probe{URL: "http://invalid/readyz"}
	if addr, err := ownAddress(cfg.Server.Addr); err == nil {
		probe = doctor.Probe{URL: readyURL(cfg, addr), TLS: ownTLS()}
	}
	answer := probe.Ask(ctx)
	checks = append(checks, doctor.Instance(probe, answer), doctor.Listener("server.addr", cfg.Server.Addr, answer.Running))
	if cfg.Server.MetricsAddr != "" {
		checks = append(checks, doctor.Listener("server.metrics_addr", cfg.Server.MetricsAddr, answer.Running))
	}
	checks = append(checks, doctor.Descriptors(cfg.Server.MaxConnections))
	if dir, err := c.Env().DataDir(cfg); err != nil {
		checks = append(checks, doctor.Broken("data directory", err.Error(), "Set data.dir."))
	} else {
		checks = append(checks, doctor.DataDir(dir, cfg.Database.URL.Empty()))
	}
	checks = append(checks, doctor.OTLP(c.otlp()))
	return append(checks, c.documentChecks(ctx, cfg, targets)...)
}

// readyURL is where the instance of this configuration answers for its readiness.
func readyURL(cfg *config.Config, addr string) string {
	scheme := "http"
	if t := cfg.Server.TLS; t.CertFile != "" || t.Dir != "" || len(t.ACME.Domains) > 0 {
		scheme = "https"
	}
	return scheme + "://" + addr + "/readyz"
}

// databaseChecks asks the configured database, or a private one that runs already: to
// start one would change the data directory.
func (c *command) databaseChecks(cfg *config.Config) []doctor.Check {
	db := doctor.Database{URL: cfg.Database.URL, Needed: cfg.Database.MaxConnections, Now: time.Now}
	private := db.URL.Empty()
	if private {
		dir, err := app.PostgresDir(cfg, c.Env())
		if err != nil {
			return []doctor.Check{doctor.Broken("database", err.Error(), "Set data.dir, or DATABASE_URL.")}
		}
		url, err := pglocal.Running(dir)
		if err != nil {
			return []doctor.Check{c.privatePrograms(cfg), doctor.Absent("master key", "the private PostgreSQL does not run, so there is nothing to compare it with")}
		}
		db.URL = seal.NewSecret(url)
	}
	ring, err := c.existingRing(cfg, private)
	return append(db.Checks(), db.MasterKey(ring, err))
}

// privatePrograms says whether the private PostgreSQL could be started.
func (*command) privatePrograms(cfg *config.Config) doctor.Check {
	return doctor.Check{Area: "database", Run: func(ctx context.Context) []doctor.Finding {
		found, err := pglocal.Find(ctx, cfg.Database.PostgresBin)
		if err != nil {
			return []doctor.Finding{{Object: "private", Status: doctor.Failed, Detail: err.Error(), Advice: "Install PostgreSQL, or set DATABASE_URL."}}
		}
		return []doctor.Finding{{Object: "private", Status: doctor.Skipped, Detail: "it does not run; a start would use PostgreSQL " + found.Version + " in " + found.Dir,
			Advice: "Run doctor again beside a running instance to have the database checked."}}
	}}
}

// existingRing is the ring of master keys; unlike the program's start, it makes no key.
func (c *command) existingRing(cfg *config.Config, private bool) (*seal.Keyring, error) {
	if cfg.Security.MasterKey.Empty() && private {
		path, err := app.MasterKeyPath(cfg, c.Env())
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("there is no master key: KEYWARDEN_MASTER_KEY is not set, and %w", err)
		}
	}
	return app.Keyring(cfg, c.Env(), private)
}

// otlp is where traces go.
func (c *command) otlp() string {
	for _, name := range []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"} {
		if v, _ := c.Sys.Lookup(name); v != "" {
			return v
		}
	}
	return ""
}

// documentChecks look at the gateway document and what it leads to, and at certificates.
func (c *command) documentChecks(ctx context.Context, cfg *config.Config, targets bool) []doctor.Check {
	t := cfg.Server.TLS
	files := []doctor.CertificateFiles{{Name: "server.tls", Dir: t.Dir}}
	if t.CertFile != "" {
		files[0].Pairs = []doctor.Pair{{CertFile: t.CertFile, KeyFile: t.KeyFile}}
	}
	for _, ca := range []string{t.ClientCAFile, t.ACME.CAFile} {
		if ca != "" {
			files[0].CAs = append(files[0].CAs, ca)
		}
	}
	doc, source, why := c.gatewayDocument(ctx, cfg)
	if why != nil {
		return append([]doctor.Check{doctor.Certificates(files, time.Now)}, why...)
	}
	checks := []doctor.Check{doctor.Certificates(append(files, serviceFiles(doc)...), time.Now), doctor.Document(source, doc)}
	if !targets {
		return append(checks, doctor.Absent("targets", "not asked (--no-targets)"))
	}
	return append(checks, doctor.Targets(doc.Services)...)
}

// gatewayDocument reads the document that an instance of this configuration serves, and
// what it is called. Where there is none to look at, why has the checks that say so.
func (c *command) gatewayDocument(ctx context.Context, cfg *config.Config) (doc spec.Document, source string, why []doctor.Check) {
	const area = "gateway document"
	switch k := cfg.Gateway.Kubernetes; cfg.Gateway.Source {
	case "database":
		url := cfg.Database.URL
		if url.Empty() {
			dir, err := app.PostgresDir(cfg, c.Env())
			if err != nil {
				return doc, "", []doctor.Check{doctor.Broken(area, err.Error(), "Set data.dir, or DATABASE_URL.")}
			}
			running, err := pglocal.Running(dir)
			if err != nil {
				return doc, "", []doctor.Check{doctor.Absent(area, "it is in the database, and the private PostgreSQL does not run")}
			}
			url = seal.NewSecret(running)
		}
		doc, source, check := doctor.StoredDocument(ctx, url)
		if check != nil {
			why = []doctor.Check{*check}
		}
		return doc, source, why
	case config.SourceKubernetes:
		return doc, "", []doctor.Check{
			doctor.Absent(area, "it is made of the objects of the cluster: last_error and errors of GET /admin/v1/state say whether they can be read, and which are refused"),
			doctor.Cluster(apiserver.Config{URL: k.APIURL, TokenFile: k.TokenFile, CAFile: k.CAFile}),
		}
	}
	if cfg.Gateway.File == "" {
		return doc, "", []doctor.Check{doctor.Absent(area, "there is none: the platform runs without a gateway")}
	}
	doc, _, err := document.Read(c.Shell, cfg.Gateway.File)
	if err != nil {
		why = []doctor.Check{doctor.Broken(area, err.Error(), "Correct it; keywarden config check "+cfg.Gateway.File+" says when it is right.")}
	}
	return doc, cfg.Gateway.File, why
}

// serviceFiles are the certificates that services of the document name.
func serviceFiles(doc spec.Document) (files []doctor.CertificateFiles) {
	for _, s := range doc.Services {
		if s.TLS == nil {
			continue
		}
		f := doctor.CertificateFiles{Name: "service " + s.Name}
		if s.TLS.CertFile != "" {
			f.Pairs = []doctor.Pair{{CertFile: s.TLS.CertFile, KeyFile: s.TLS.KeyFile}}
		}
		if s.TLS.CAFile != "" {
			f.CAs = []string{s.TLS.CAFile}
		}
		files = append(files, f)
	}
	return files
}

// mark is how a status looks, nothing for none. Colours are of the same length, since the
// table counts them as text.
func mark(s doctor.Status, colours bool) string {
	word, colour := "", "39"
	switch s {
	case doctor.OK:
		word, colour = "ok", "32"
	case doctor.Warning:
		word, colour = "WARNING", "33"
	case doctor.Failed:
		word, colour = "FAILED", "31"
	case doctor.Skipped:
		word, colour = "skipped", "90"
	}
	if !colours {
		return word
	}
	return "\x1b[" + colour + "m" + word + "\x1b[0m"
}

// writeReport writes a table, and what to do after it.
func writeReport(w io.Writer, r doctor.Report) {
	colours := terminal(w)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range r.Findings {
		what := f.Area
		if f.Object != "" {
			what += ": " + f.Object
		}
		first, rest, _ := strings.Cut(f.Detail, "\n")
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\n", mark(f.Status, colours), what, shell.Printable(first))
		for line := range strings.Lines(rest) {
			_, _ = fmt.Fprintf(table, "%s\t\t%s\n", mark("", colours), shell.Printable(strings.TrimSpace(line)))
		}
		if f.Advice != "" {
			_, _ = fmt.Fprintf(table, "%s\t\t-> %s\n", mark("", colours), shell.Printable(f.Advice))
		}
	}
	_ = table.Flush()
	_, _ = fmt.Fprintf(w, "%d ok, %d warnings, %d failed, %d skipped\n", r.Counts[doctor.OK], r.Counts[doctor.Warning], r.Counts[doctor.Failed], r.Counts[doctor.Skipped])
}

// terminal reports whether w is one.
func terminal(w io.Writer) bool {
	file, is := w.(*os.File)
	if !is {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
