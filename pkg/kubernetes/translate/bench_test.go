package translate_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/kubernetes/translate"
)

// BenchmarkTranslate is a cluster with a thousand Ingresses and a thousand HTTPRoutes, of
// which nothing was translated before, or all but one.
func BenchmarkTranslate(b *testing.B) {
	var text strings.Builder
	text.WriteString(fixture + "---\nkind: IngressClass\nmetadata: {name: keywarden}\nspec: {controller: keywarden.io/gateway-controller}\n")
	for i := range 1000 {
		fmt.Fprintf(&text, `---
kind: Ingress
metadata: {name: i%[1]d, namespace: shop}
spec: {ingressClassName: keywarden, rules: [{host: i%[1]d.example.com, http: {paths: [{path: /a, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}]}}]}
---
kind: HTTPRoute
metadata: {name: h%[1]d, namespace: shop}
spec: {parentRefs: [{name: main}], hostnames: [h%[1]d.example.com], rules: [{matches: [{path: {value: /a}, method: GET}, {path: {value: /a}}], backendRefs: [{name: web, port: 80}]}]}
`, i)
	}
	all := read(b, []byte(text.String()))
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			if r := translate.New().Translate(all, options(), now); len(r.Document.Routes) != 3000 {
				b.Fatalf("%d routes", len(r.Document.Routes))
			}
		}
	})
	b.Run("again", func(b *testing.B) {
		t := translate.New()
		t.Translate(all, options(), now)
		for b.Loop() {
			t.Translate(all, options(), now)
		}
	})
}
