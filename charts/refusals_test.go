package charts_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWrongValuesAreRefused shows each mistake to helm, and reads what it says.
func TestWrongValuesAreRefused(t *testing.T) {
	const key = "dzpPopuI4/KNx+qnj3WNpMLS2v0Vek+qyopYqciI7cE=" // of testdata/values/inline-secrets.yaml
	cases := []struct {
		name string
		args []string
		want string // a part of the message
	}{
		{"no master key", []string{"masterKey.existingSecret="}, "The master key is missing"},
		{"no database", []string{"database.existingSecret="}, "The database is missing"},
		{"two master keys", []string{"masterKey.value=" + key}, "masterKey.value and masterKey.existingSecret are both set"},
		{"a master key that is none", []string{"masterKey.existingSecret=", "masterKey.value=secret"}, "/masterKey/value"},
		{"two databases", []string{"database.host=pg"}, "database.existingSecret and database.host are set together"},
		{"a host without a password", []string{"database.existingSecret=", "database.host=pg"}, "database.host needs database.passwordExistingSecret"},
		{"a password without a host", []string{"database.password=x"}, "go with database.host"},
		{"two URLs of Redis", []string{"redis.url=redis://a", "redis.existingSecret=b"}, "redis.url and redis.existingSecret are both set"},
		{"counters in no Redis", []string{"config.counters.store=redis"}, "set redis.existingSecret"},
		{"two gateway documents", []string{"gateway.document=version: 1", "gateway.existingConfigMap=a"}, "keep one of them"},
		{"a document in two places", []string{"gateway.document=version: 1", "gateway.source=database"}, "gateway.source is database"},
		{"a document of two sources", []string{"gateway.document=version: 1", "gateway.source=kubernetes", "config.server.hosts={a.example.com}"}, "never merged with another"},
		{"a ConfigMap beside the objects", []string{"gateway.existingConfigMap=a", "gateway.source=kubernetes", "config.server.hosts={a.example.com}"}, "gateway.document and gateway.existingConfigMap must be empty"},
		{"routes without hosts of the platform", []string{"gateway.source=kubernetes"}, "paths such as /users and /admin/v1 would be the platform's own on every host"},
		{"routes without hosts, but a way to name them", []string{"gateway.source=kubernetes"}, "--set 'config.server.hosts={accounts.example.com}'"},
		{"routes without the listener for operators", []string{"gateway.source=kubernetes", "config.server.hosts={a.example.com}", "operators.enabled=false"}, "config.server.hosts keeps the probes"},
		{"rights for everybody's account", []string{"gateway.source=kubernetes", "config.server.hosts={a.example.com}", "serviceAccount.create=false"}, "an account of their own"},
		{"an Ingress to itself", []string{"gateway.source=kubernetes", "config.server.hosts={a.example.com}", "ingress.enabled=true", "ingress.hosts[0].host=b", "ingress.className=keywarden"}, "the gateway would lead to itself"},
		{"addresses of another source", []string{"gateway.kubernetes.addresses={192.0.2.1}"}, "means nothing unless gateway.source is kubernetes"},
		{"authorities of clients without TLS", []string{"tls.clientCA.existingSecret=ca"}, "tls.clientCA needs a certificate of the listener"},
		{"probes without a certificate", []string{"tls.existingSecret=a", "tls.clientCA.existingSecret=ca", "tls.clientCA.mode=require", "operators.enabled=false"}, "set operators.enabled to true"},
		{"probes that name no host", []string{"config.server.hosts={a.example.com}", "operators.enabled=false"}, "config.server.hosts keeps the probes"},
		{"probes that order no certificate", []string{"config.server.tls.acme.domains={a.example.com}", "operators.enabled=false"}, "gets a certificate for whom asks by name"},
		{"a colour that does not exist", []string{"strategy=blueGreen", "blueGreen.active=green"}, "the Service would lead nowhere"},
		{"an HTTPRoute without a Gateway", []string{"httpRoute.enabled=true"}, "httpRoute.enabled needs httpRoute.parentRefs"},
		{"an Ingress without hosts", []string{"ingress.enabled=true"}, "ingress.enabled needs ingress.hosts"},
		{"replicas the wrong way round", []string{"autoscaling.enabled=true", "autoscaling.minReplicas=20"}, "autoscaling.minReplicas is more"},
		{"scaling by nothing", []string{"autoscaling.enabled=true", "autoscaling.targetCPUUtilizationPercentage=null"}, "autoscaling.enabled needs a target"},
		{"two budgets", []string{"podDisruptionBudget.minAvailable=1"}, "set the other one to null"},
		{"metrics for the world by an Ingress", []string{"operators.enabled=false", "ingress.enabled=true", "ingress.hosts[0].host=b"}, "which asks nobody for a credential"},
		{"metrics for the world by a load balancer", []string{"operators.enabled=false", "service.type=LoadBalancer"}, "which asks nobody for a credential"},
		{"metrics that are off", []string{"monitoring.serviceMonitor.enabled=true", "config.telemetry.metrics=false"}, "config.telemetry.metrics is false"},
		{"a limit of memory in words", []string{"resources.limits.memory=much"}, "resources.limits.memory is"},

		{"a misspelt value", []string{"replicas=3"}, "additional properties 'replicas' not allowed"},
		{"a misspelt value within another", []string{"database.existingSecrte=a"}, "at '/database': additional properties 'existingSecrte' not allowed"},
		{"a misspelt option", []string{"config.server.max_conections=5"}, "at '/config/server': additional properties 'max_conections' not allowed"},
		{"a misspelt section", []string{"config.sever.hosts={a}"}, "at '/config': additional properties 'sever' not allowed"},
		{"an option that the chart decides", []string{"config.server.addr=:9999"}, "at '/config/server': additional properties 'addr' not allowed"},
		{"a secret among the options", []string{"config.database.url=postgres://a"}, "at '/config/database': additional properties 'url' not allowed"},
		{"a source that does not exist", []string{"gateway.source=git"}, "at '/gateway/source'"},
		{"a controller without a domain", []string{"gateway.kubernetes.controller=keywarden"}, "at '/gateway/kubernetes/controller'"},
		{"an address that is a URL", []string{"gateway.kubernetes.addresses={https://a.example.com}"}, "at '/gateway/kubernetes/addresses/0'"},
		{"a class without a name", []string{"gateway.kubernetes.classes.name="}, "at '/gateway/kubernetes/classes/name'"},
		{"an option of the source among the options", []string{"config.gateway.kubernetes.status=false"}, "at '/config/gateway': additional properties 'kubernetes' not allowed"},
		{"a master key among the options", []string{"config.security.master_key=" + key}, "additional properties 'security' not allowed"},
		{"a word that is no choice", []string{"strategy=canary"}, "at '/strategy'"},
		{"an option that is no choice", []string{"config.log.level=loud"}, "at '/config/log/level'"},
		{"a number out of bounds", []string{"config.accounts.bcrypt_cost=99"}, "at '/config/accounts/bcrypt_cost'"},
		{"a duration without a unit", []string{"config.tokens.access_ttl=15"}, "at '/config/tokens/access_ttl'"},
		{"a text for a switch", []string{"ingress.enabled=sometimes"}, "at '/ingress/enabled'"},
		{"a URL of another kind", []string{"database.existingSecret=", "database.url=mysql://a"}, "at '/database/url'"},
		{"options of one colour", []string{"blueGreen.green.config.log.levl=debug"}, "at '/blueGreen/green/config/log'"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var args []string
			for _, arg := range c.args {
				args = append(args, "--set", arg)
			}
			_, err := render(t, valuesFiles(t)["minimal"], kubeVersions()[0], args...)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("helm says: %v\nwant: %s", err, c.want)
			}
		})
	}
}

// TestOldKubernetesIsRefused keeps clusters out whose API the chart is not checked for.
func TestOldKubernetesIsRefused(t *testing.T) {
	if _, err := render(t, valuesFiles(t)["minimal"], "1.28"); err == nil || !strings.Contains(err.Error(), "kubeVersion: >=1.29.0-0") {
		t.Errorf("helm says: %v", err)
	}
}

// notes is what helm says after an installation. Without a cluster it says nothing, so a
// copy of the chart has an object that holds them.
func notes(t *testing.T, folder, values string, args ...string) string {
	t.Helper()
	all := append([]string{"template", release, folder, "--namespace", namespace, "--kube-version", kubeVersions()[0] + ".0",
		"--values", valuesFiles(t)[values], "--show-only", "templates/notes.yaml"}, args...)
	stdout, stderr, err := run(t, all...)
	if err != nil {
		t.Fatal(stderr)
	}
	return text(decode(t, stdout)[0], "data", "notes")
}

// TestNotesSayWhatToDoNext reads the notes of different installations.
func TestNotesSayWhatToDoNext(t *testing.T) {
	cases := []struct {
		name, values string
		args         []string
		want         []string
		without      string
	}{
		{"the least", "minimal", nil, []string{
			"rollout status deployment/kw-keywarden", "helm -n gateways test kw", "exec deploy/kw-keywarden -- /usr/local/bin/keywarden admin create",
			"port-forward svc/kw-keywarden 8080:80", "port-forward svc/kw-keywarden-operators 9090:9090", "there is no gateway document yet",
		}, "WARNING"},
		{"secrets as values", "inline-secrets", nil, []string{"WARNING: secrets were given as values"}, ""},
		{"an Ingress", "ingress", nil, []string{"https://api.example.com"}, "WARNING"},
		{"an Ingress whose proxies are not known", "ingress", []string{"--set-json", "config.server.trusted_proxies=[]"}, []string{"WARNING: config.server.trusted_proxies is empty"}, ""},
		{"blue/green", "bluegreen", nil, []string{"deployment/kw-keywarden-blue", "The Service leads to blue"}, ""},
		{"a document in the database", "one-listener", nil, []string{"the gateway document is in the database", "nobody migrates the database", "https://127.0.0.1:8080"}, "-operators"},
		{"routes from objects", "routes", nil, []string{
			"whose class names keywarden.io/gateway-controller, such as keywarden", "The platform itself answers as accounts.example.com alone",
			"WARNING: networkPolicy.egress limits what the pods reach", "no pod becomes ready",
		}, "GatewayClass"},
		{"routes without addresses and Gateway API", "routes", []string{"--set-json", "gateway.kubernetes.addresses=[]", "--set", "gateway.kubernetes.classes.gatewayClass=null"}, []string{
			"NOTE: statuses have no address", "there is no GatewayClass, since the cluster has no Gateway API",
		}, ""},
		{"routes of somebody else's classes", "routes-read-only", nil, []string{"whose class names example.com/second:"}, "NOTE: statuses"},
		{"discovery that egress keeps from the API server", "discovery", []string{"--set", "networkPolicy.egress.enabled=true"}, []string{"no target is found"}, "becomes ready"},
		{"Prometheus out of reach", "bluegreen", nil, []string{"WARNING: the NetworkPolicy lets only pods of gateways"}, ""},
		{"everything", "full", nil, []string{"rollout status deployment/gate"}, "WARNING"},
	}
	folder := filepath.Join(t.TempDir(), chart)
	if err := os.CopyFS(folder, os.DirFS(chart)); err != nil {
		t.Fatal(err)
	}
	const holder = `{apiVersion: v1, kind: ConfigMap, metadata: {name: notes}, data: {notes: {{ include (print $.Template.BasePath "/NOTES.txt") . | toJson }}}}`
	if err := os.WriteFile(filepath.Join(folder, "templates", "notes.yaml"), []byte(holder), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			said := notes(t, folder, c.values, c.args...)
			for _, want := range c.want {
				if !strings.Contains(said, want) {
					t.Errorf("the notes do not say %q:\n%s", want, said)
				}
			}
			if c.without != "" && strings.Contains(said, c.without) {
				t.Errorf("the notes say %q:\n%s", c.without, said)
			}
		})
	}
}
