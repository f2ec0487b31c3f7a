package certstore

import (
	"bytes"
	"crypto/tls"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// folder is a folder of certificates, under a clock that the test turns.
type folder struct {
	*Store
	dir   string
	clock time.Time
}

// put writes a certificate for name as file.crt and file.key.
func (f *folder) put(t *testing.T, file, name string, life time.Duration) {
	t.Helper()
	writer := &files{certificate: &certificate{certFile: file + ".crt", keyFile: file + ".key"}, clock: time.Now()}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	writer.write(t, name, life)
}

func openFolder(t *testing.T, change func(*Options)) *folder {
	t.Helper()
	f := &folder{dir: t.TempDir(), clock: time.Now()}
	f.put(t, filepath.Join(f.dir, "a"), "a.test", time.Hour)
	f.put(t, filepath.Join(f.dir, "wild"), "*.b.test", time.Hour)
	f.put(t, filepath.Join(f.dir, "mounted", "tls"), "c.test", time.Hour)
	o := Options{Dir: f.dir, Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	f.clock = s.checked
	s.now = func() time.Time { return f.clock }
	f.Store = s
	return f
}

func (f *folder) served(t *testing.T, name string) string {
	t.Helper()
	c, err := f.get(&tls.ClientHelloInfo{ServerName: name})
	if err != nil {
		t.Fatal(err)
	}
	return c.Leaf.Subject.CommonName
}

func TestTheCertificateIsChosenByName(t *testing.T) {
	f := openFolder(t, nil)
	for name, want := range map[string]string{
		"a.test": "a.test", "A.TEST": "a.test", "a.test.": "a.test", "x.b.test": "*.b.test", "c.test": "c.test",
		"x.y.b.test": "a.test", "b.test": "a.test", "other": "a.test", "": "a.test", // the first one
	} {
		if got := f.served(t, name); got != want {
			t.Errorf("%q gets %s, want %s", name, got, want)
		}
	}
}

func TestCertFileIsForAllOtherNames(t *testing.T) {
	first := filepath.Join(t.TempDir(), "first")
	(&folder{}).put(t, first, "first.test", time.Hour)
	f := openFolder(t, func(o *Options) { o.CertFile, o.KeyFile = first+".crt", first+".key" })
	for name, want := range map[string]string{"": "first.test", "other": "first.test", "c.test": "c.test"} {
		if got := f.served(t, name); got != want {
			t.Errorf("%q gets %s, want %s", name, got, want)
		}
	}
}

func TestTheFolderIsFollowed(t *testing.T) {
	f := openFolder(t, nil)
	f.put(t, filepath.Join(f.dir, "new"), "new.test", time.Hour)
	if err := os.WriteFile(filepath.Join(f.dir, "broken.crt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.dir, "broken.key"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(f.dir, "mounted", "tls.crt")); err != nil {
		t.Fatal(err)
	}
	if got := f.served(t, "new.test"); got != "a.test" {
		t.Errorf("within the interval: %s", got)
	}
	f.clock = f.clock.Add(certificateInterval)
	if got := f.served(t, "new.test"); got != "new.test" {
		t.Errorf("the new certificate is not served, but %s", got)
	}
	if got := f.served(t, "c.test"); got == "c.test" {
		t.Error("the removed certificate is served")
	}
	if n := len(f.Certificates()); n != 3 {
		t.Errorf("%d certificates are listed, want 3", n)
	}
}

// A renewal that is caught between two steps costs nobody the certificate, nor does
// a volume that is not mounted for a moment.
func TestWhatIsMissingForAMomentGoesOnBeingServed(t *testing.T) {
	for name, test := range map[string]struct {
		remove func(f *folder) error
		keeps  string
	}{
		"the key":            {func(f *folder) error { return os.Remove(filepath.Join(f.dir, "wild.key")) }, "x.b.test"},
		"the key of a mount": {func(f *folder) error { return os.Remove(filepath.Join(f.dir, "mounted", "tls.key")) }, "c.test"},
		"the folder":         {func(f *folder) error { return os.RemoveAll(f.dir) }, "c.test"},
		"all that is in it":  {func(f *folder) error { return errors.Join(os.RemoveAll(f.dir), os.Mkdir(f.dir, 0o700)) }, "c.test"},
		"all but what is hidden": {func(f *folder) error {
			return errors.Join(os.RemoveAll(f.dir), os.MkdirAll(filepath.Join(f.dir, "..data"), 0o700))
		}, "c.test"},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			f := openFolder(t, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
			before, err := f.get(&tls.ClientHelloInfo{ServerName: test.keeps})
			if err != nil {
				t.Fatal(err)
			}
			if err := test.remove(f); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				f.clock = f.clock.Add(2 * certificateInterval)
				if after, err := f.get(&tls.ClientHelloInfo{ServerName: test.keeps}); err != nil || after != before {
					t.Fatalf("another certificate, or none: %v", err)
				}
			}
			if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
				t.Errorf("%d errors are logged, want one: %s", n, &log)
			}
		})
	}
}

// Beside another certificate, the last one of the folder can be taken out.
func TestTheLastCertificateOfTheFolderCanBeRemoved(t *testing.T) {
	first := filepath.Join(t.TempDir(), "first")
	(&folder{}).put(t, first, "first.test", time.Hour)
	f := openFolder(t, func(o *Options) { o.CertFile, o.KeyFile = first+".crt", first+".key" })
	if err := errors.Join(os.RemoveAll(f.dir), os.Mkdir(f.dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	f.clock = f.clock.Add(certificateInterval)
	if got := f.served(t, "c.test"); got != "first.test" {
		t.Errorf("%s is served", got)
	}
}

func TestOfTwoForOneNameTheLongerOneWins(t *testing.T) {
	f := openFolder(t, nil)
	f.put(t, filepath.Join(f.dir, "z"), "a.test", 48*time.Hour)
	f.clock = f.clock.Add(certificateInterval)
	c, err := f.get(&tls.ClientHelloInfo{ServerName: "a.test"})
	if err != nil || time.Until(c.Leaf.NotAfter) < 24*time.Hour {
		t.Errorf("got one until %s, %v", c.Leaf.NotAfter, err)
	}
}

func TestNewRefusesWhatCannotServe(t *testing.T) {
	empty, broken := t.TempDir(), t.TempDir()
	for _, name := range []string{"a.crt", "a.key"} {
		if err := os.WriteFile(filepath.Join(broken, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	good := filepath.Join(t.TempDir(), "good")
	(&folder{}).put(t, good, "good.test", time.Hour)
	for name, o := range map[string]Options{
		"nothing":                 {},
		"an empty folder":         {Dir: empty},
		"no folder":               {Dir: filepath.Join(empty, "none")},
		"a broken pair":           {Dir: broken},
		"a certificate only":      {CertFile: good + ".crt"},
		"a key only":              {KeyFile: good + ".key"},
		"a key for a certificate": {CertFile: good + ".key", KeyFile: good + ".key"},
		"no file of authorities":  {CertFile: good + ".crt", KeyFile: good + ".key", ClientCAFile: filepath.Join(empty, "none")},
		"authorities without any": {CertFile: good + ".crt", KeyFile: good + ".key", ClientCAFile: good + ".key"},
	} {
		o.Logger = slog.New(slog.DiscardHandler)
		if _, err := New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
