package doctor

import (
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/spec/services"
)

// putRevision makes text the document in force.
func putRevision(t *testing.T, address, text string) {
	t.Helper()
	quoted := "'" + strings.ReplaceAll(text, "'", "''") + "'"
	execute(t, address,
		`INSERT INTO gateway_revisions (number, digest, at, base, document)
			SELECT n + 1, encode(sha256(convert_to(`+quoted+`, 'UTF8')), 'hex'), now(), n, `+quoted+` FROM (SELECT number AS n FROM gateway_current) AS c`,
		`UPDATE gateway_current SET number = number + 1, digest = encode(sha256(convert_to(`+quoted+`, 'UTF8')), 'hex')`)
}

func TestDocumentOfTheDatabaseIsTheOneInForce(t *testing.T) {
	address := pgtest.New(t)
	_, _, why := StoredDocument(t.Context(), seal.NewSecret(address))
	if why == nil {
		t.Fatal("a document was made of nothing")
	}
	want(t, find(t, "", *why), Warning, "none yet")

	for _, name := range []string{"old", "new"} {
		putRevision(t, address, `{"version":1,"services":[{"name":"`+name+`","url":"http://127.0.0.1:1"}],"routes":[]}`)
	}
	doc, source, why := StoredDocument(t.Context(), seal.NewSecret(address))
	if why != nil {
		t.Fatalf("%+v", find(t, "", *why))
	}
	if source != "revision 2" || len(doc.Services) != 1 || doc.Services[0].Name != "new" {
		t.Errorf("%s: %+v", source, doc.Services)
	}

	putRevision(t, address, `{"version":1,"of_a_later_version":{}}`)
	_, _, why = StoredDocument(t.Context(), seal.NewSecret(address))
	if why == nil {
		t.Fatal("a document was made of what nobody knows")
	}
	want(t, find(t, "", *why), Failed, "of_a_later_version")
}

// Somebody who looks for the targets of a service is told why they are not there.
func TestTargetsThatAreLookedUpAreSkippedWithTheReason(t *testing.T) {
	for registry, discovery := range map[string]services.Discovery{
		"DNS": {DNS: &services.DNSDiscovery{}}, "Consul": {Consul: &services.ConsulDiscovery{}},
		"etcd": {Etcd: &services.EtcdDiscovery{}}, "Kubernetes": {Kubernetes: &services.KubernetesDiscovery{}},
	} {
		f := find(t, "users", Targets([]services.Service{{Name: "users", Discovery: &discovery}})...)
		want(t, f, Skipped, registry+" knows")
		if f.Advice == "" {
			t.Errorf("%+v does not say where to see them", f)
		}
	}
}

// What keeps the document from being read is somebody else's finding, or one of its own.
func TestDocumentOfTheDatabaseThatCannotBeHad(t *testing.T) {
	_, _, why := StoredDocument(t.Context(), seal.NewSecret("postgres://u:canary-of-a-password@127.0.0.1:1/x"))
	if why == nil {
		t.Fatal("a document was made of nothing")
	}
	f := find(t, "", *why)
	want(t, f, Skipped, "cannot be reached")
	if strings.Contains(f.Detail+f.Advice, "canary") {
		t.Errorf("%+v shows the password", f)
	}
	address := pgtest.New(t)
	execute(t, address, `ALTER TABLE gateway_current RENAME COLUMN number TO nothing`)
	if _, _, why = StoredDocument(t.Context(), seal.NewSecret(address)); why == nil {
		t.Fatal("a document was made of nothing")
	}
	want(t, find(t, "", *why), Failed, "does not exist")
	execute(t, address, `DROP TABLE gateway_current`)
	if _, _, why = StoredDocument(t.Context(), seal.NewSecret(address)); why == nil {
		t.Fatal("a document was made of nothing")
	}
	want(t, find(t, "", *why), Warning, "none yet") // the schema is the finding
}
