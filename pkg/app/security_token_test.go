package app_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/gateway/attacktest"
)

// forger makes access tokens with the platform's own signing key, so that only
// what a test changes about them can be why they are refused.
type forger struct {
	kid    string
	key    ed25519.PrivateKey
	claims object // of a good token
}

func newForger(t *testing.T, p *apptest.Program, token string) forger {
	t.Helper()
	keys, err := p.Platform.Store.SigningKeys(t.Context(), time.Now())
	if err != nil || len(keys) != 1 {
		t.Fatalf("%d signing keys, %v", len(keys), err)
	}
	seed, _, err := p.Platform.Ring.Open(keys[0].Sealed, "signing_keys/"+keys[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	f := forger{kid: keys[0].ID, key: ed25519.NewKeyFromSeed(seed)}
	decoder := json.NewDecoder(strings.NewReader(string(payload)))
	decoder.UseNumber()
	if err := decoder.Decode(&f.claims); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f forger) header() object { return object{"alg": "EdDSA", "typ": "at+jwt", "kid": f.kid} }

// rawJSON is a member that is written as it stands.
type rawJSON string

// withMember is a copy of o with a member replaced, or removed for nil.
func withMember(o object, name string, value any) object {
	o = maps.Clone(o)
	if o[name] = value; value == nil {
		delete(o, name)
	}
	return o
}

// jsonObject is v as JSON; rawJSON stays as it is.
func jsonObject(t *testing.T, v object) string {
	t.Helper()
	var members []string
	for name, value := range v {
		member, ok := value.(rawJSON)
		if !ok {
			b, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			member = rawJSON(b)
		}
		quoted, _ := json.Marshal(name)
		members = append(members, string(quoted)+":"+string(member))
	}
	return "{" + strings.Join(members, ",") + "}"
}

func (f forger) sign(t *testing.T, header, claims object) string {
	t.Helper()
	return f.signText(jsonObject(t, header), jsonObject(t, claims))
}

func (f forger) signText(header, claims string) string {
	signed := base64Part(header) + "." + base64Part(claims)
	return signed + "." + base64Part(string(ed25519.Sign(f.key, []byte(signed))))
}

func base64Part(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// tokenTest is a program with a user, whose tokens are forged.
type tokenTest struct {
	*apptest.Program
	up   *attacktest.Upstream
	user *apptest.User
	forger
}

func startForged(t *testing.T) tokenTest {
	t.Helper()
	p, up := startBehind(t, apptest.Options{Set: roomy()})
	u := p.User(t)
	return tokenTest{Program: p, up: up, user: u, forger: newForger(t, p, u.Token)}
}

// status is how the platform and the gateway answer to the token; they must
// agree, and a refusal must not reach the backend.
func (tt tokenTest) status(t *testing.T, token string) int {
	t.Helper()
	mark := tt.up.Mark()
	field := "Authorization: Bearer " + token
	platform := ask(t, tt.Addr, rawRequest("GET /api/test HTTP/1.1", field))
	gateway := ask(t, tt.Addr, rawRequest("GET /jwt/x HTTP/1.1", field))
	if platform.Status != gateway.Status {
		t.Errorf("the platform answers %d, the gateway %d", platform.Status, gateway.Status)
	}
	if seen := len(tt.up.Since(mark)); seen > 0 != (gateway.Status == http.StatusOK) {
		t.Errorf("status %d, and %d requests reached the backend", gateway.Status, seen)
	}
	return platform.Status
}

// refused fails unless the token gets 401 everywhere.
func (tt tokenTest) refused(t *testing.T, name, token string) {
	t.Helper()
	if got := tt.status(t, token); got != http.StatusUnauthorized {
		t.Errorf("%s: status %d for %.300s", name, got, token)
	}
}

// JWT-01, JWT-02, JWT-03, JWT-05, JWT-08, JWT-13: a token whose header is not exactly one of ours is
// refused, although our key has signed it. It cannot choose an algorithm, a key,
// a file, a query or another kind of token.
func TestTokensWithAnotherHeaderAreRefused(t *testing.T) {
	tt := startForged(t)
	if got := tt.status(t, tt.sign(t, tt.header(), tt.claims)); got != http.StatusOK {
		t.Fatalf("a token made as the platform does: status %d", got)
	}
	public := tt.key.Public().(ed25519.PublicKey) //nolint:forcetypeassert // documented type
	with := func(name string, value any) string {
		return tt.sign(t, withMember(tt.header(), name, value), tt.claims)
	}

	for name, kid := range map[string]any{
		"traversal": "../../../../../../dev/null", "a file": "/etc/passwd", "a quote": "' OR '1'='1", "a union": "x' UNION SELECT 'key' --",
		"NUL": tt.kid + "\x00", "a line end": tt.kid + "\n", "empty": "", "10 kB": strings.Repeat("a", 10_000), "a number": 1, "null": rawJSON("null"),
		"a list": []string{tt.kid}, "an object": object{"kid": tt.kid}, "missing": nil, "a URL": "http://127.0.0.1:1/key.json", "upper case": strings.ToUpper(tt.kid),
		"another id": unknownID, "a template": "{{.Env}}",
	} {
		tt.refused(t, "kid: "+name, with("kid", kid))
	}
	for name, typ := range map[string]any{
		"id token": "JWT", "lower case": "jwt", "id_token": "id_token", "logout token": "logout+jwt", "refresh": "refresh+jwt", "event": "secevent+jwt",
		"proof of possession": "dpop+jwt", "request object": "oauth-authz-req+jwt", "missing": nil, "null": rawJSON("null"), "empty": "", "a list": []string{"at+jwt"}, "a number": 1,
	} {
		tt.refused(t, "typ: "+name, with("typ", typ))
	}
	for name, alg := range map[string]any{
		"none": "none", "NONE": "NONE", "nOnE": "nOnE", "empty": "", "missing": nil, "HS256": "HS256", "RS256": "RS256", "ES256": "ES256", "eddsa": "eddsa",
		"Ed25519": "Ed25519", "null": rawJSON("null"), "a number": 0,
	} {
		token := with("alg", alg)
		tt.refused(t, "alg, signed: "+name, token)
		unsigned := token[:strings.LastIndexByte(token, '.')]
		tt.refused(t, "alg, not signed: "+name, unsigned+".")
		tt.refused(t, "alg, without signature: "+name, unsigned)
	}
	for name, extra := range map[string]object{
		"own key":            {"jwk": object{"kty": "OKP", "crv": "Ed25519", "x": base64Part(string(public))}},
		"location of keys":   {"jku": "http://127.0.0.1:1/jwks.json"},
		"certificates":       {"x5u": "http://127.0.0.1:1/chain.pem", "x5c": []string{"AAAA"}},
		"not encoded":        {"b64": false, "crit": []string{"b64"}},
		"critical extension": {"crit": []string{"exp"}},
		"empty crit":         {"crit": []string{}},
		"content type":       {"cty": "JWT"},
		"compression":        {"zip": "DEF"},
		"unknown":            {"x": 1},
	} {
		header := tt.header()
		maps.Copy(header, extra)
		tt.refused(t, "header: "+name, tt.sign(t, header, tt.claims))
	}
	// The public key is no secret to make a MAC with.
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	for _, secret := range [][]byte{public, der, block, []byte(strings.TrimSpace(string(block))), []byte(base64Part(string(public)))} {
		signed := base64Part(jsonObject(t, withMember(tt.header(), "alg", "HS256"))) + "." + base64Part(jsonObject(t, tt.claims))
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(signed))
		tt.refused(t, "MAC by the public key", signed+"."+base64Part(string(mac.Sum(nil))))
	}
	for name, token := range map[string]string{
		"a refresh token": tt.user.Refresh, "five parts": "a.b.c.d.e", "two parts": "a.b", "a member twice": tt.signText(`{"alg":"none","alg":"EdDSA","typ":"at+jwt","kid":"`+tt.kid+`"}x`, jsonObject(t, tt.claims)),
		"no header": tt.signText("", jsonObject(t, tt.claims)), "no object": tt.signText(`"EdDSA"`, jsonObject(t, tt.claims)), "no claims": tt.signText(jsonObject(t, tt.header()), ""),
		"claims that are no object": tt.signText(jsonObject(t, tt.header()), `[]`), "signed inside signed": tt.signText(jsonObject(t, tt.header()), tt.user.Token),
		"10 MB of header, nearly": strings.Repeat("A", 60_000),
	} {
		tt.refused(t, name, token)
	}
	if got := tt.status(t, tt.user.Token); got != http.StatusOK {
		t.Errorf("the user's own token afterwards: status %d", got)
	}
}

// JWT-10: the claims decide nothing unless each of them is there and of its type.
func TestTokensWithOtherClaimsAreRefused(t *testing.T) {
	tt := startForged(t)
	other := tt.User(t)
	with := func(name string, value any) string {
		return tt.sign(t, tt.header(), withMember(tt.claims, name, value))
	}
	later := time.Now().Add(time.Hour).Unix()
	for name, exp := range map[string]any{
		"missing": nil, "a string": "9999999999", "a float": rawJSON("9999999999.5"), "null": rawJSON("null"), "negative": -1, "zero": 0, "1e308": rawJSON("1e308"),
		"1e999": rawJSON("1e999"), "beyond 64 bits": rawJSON("99999999999999999999999999"), "true": true, "a list": []int64{later}, "an object": object{},
		"past": time.Now().Add(-time.Hour).Unix(), "milliseconds of the past": rawJSON("-9223372036854775808"), "NaN": rawJSON(`"NaN"`),
	} {
		tt.refused(t, "exp: "+name, with("exp", exp))
	}
	for name, value := range map[string]any{
		"missing": nil, "future": later, "a string": "1", "null": rawJSON("null"), "a float": rawJSON("1.5"), "1e308": rawJSON("1e308"),
	} {
		tt.refused(t, "nbf: "+name, with("nbf", value))
		tt.refused(t, "iat: "+name, with("iat", value))
	}
	for claim, values := range map[string]map[string]any{
		"iss": {"missing": nil, "another": "elsewhere", "empty": "", "a list": []string{"keywarden"}, "longer": "keywarden.evil.test", "upper case": "KEYWARDEN"},
		"aud": {"missing": nil, "another": "elsewhere", "empty": "", "a list of others": []string{"elsewhere"}, "an object": object{}},
		"sub": {"missing": nil, "another user": other.ID, "empty": "", "a number": 1, "a quote": "' OR '1'='1", "upper case": strings.ToUpper(tt.user.ID)},
		"sid": {"missing": nil, "unknown": unknownID, "empty": "", "a quote": "' OR '1'='1", "NUL": "\x00", "a number": 1, "long": strings.Repeat("a", 2000)},
		"jti": {"missing": nil, "empty": "", "a number": 1},
	} {
		for name, value := range values {
			tt.refused(t, claim+": "+name, with(claim, value))
		}
	}
	// What the token says of its user's rights is not believed.
	mighty := tt.sign(t, tt.header(), withMember(withMember(tt.claims, "role", "admin"), "scope", "*"))
	a := tt.Call(t, "GET", "/users", nil, "Authorization", "Bearer "+mighty)
	wantProblem(t, a, http.StatusForbidden, "access.scope_missing")
	if got := tt.Want(t, http.StatusOK, "GET", "/api/test", nil, "Authorization", "Bearer "+mighty).Text(t, "role"); got != "user" {
		t.Errorf("the role is %s", got)
	}
	if seen := forwarded(t, tt.Program, tt.up, rawRequest("GET /jwt/x HTTP/1.1", "Authorization: Bearer "+mighty)); fieldValues(seen, "X-Consumer-Role")[0] != "user" {
		t.Errorf("the backend was told the role %q", fieldValues(seen, "X-Consumer-Role"))
	}
}

// JWT-15: a token has one spelling.
func TestOtherSpellingsOfATokenAreRefused(t *testing.T) {
	tt := startForged(t)
	token := tt.user.Token
	// A token in which every part has a character that has another spelling.
	for i := 0; !strings.ContainsAny(strings.Split(token, ".")[2], "-_"); i++ {
		token = tt.sign(t, tt.header(), withMember(tt.claims, "jti", strings.Repeat("x", i+1)))
	}
	if got := tt.status(t, token); got != http.StatusOK {
		t.Fatalf("the token itself: status %d", got)
	}
	parts := strings.Split(token, ".")
	for i := range parts {
		with := func(part string) string {
			list := append([]string{}, parts...)
			list[i] = part
			return strings.Join(list, ".")
		}
		part := parts[i]
		middle := len(part) / 2
		for name, spelled := range map[string]string{
			"padded": part + "=", "padded twice": part + "==", "padded in full": part + strings.Repeat("=", (4-len(part)%4)%4+4),
			"with a space": part[:middle] + " " + part[middle:], "with a tab": part[:middle] + "\t" + part[middle:], "with an escape": part[:middle] + "%0A" + part[middle:],
			"with a newline's text": part[:middle] + `\n` + part[middle:], "with a byte more": part + "A", "with a dot more": part[:middle] + "." + part[middle:],
			"with a byte beyond ASCII": part[:middle] + "\xc3\xa4" + part[middle:],
		} {
			tt.refused(t, name, with(spelled))
		}
		if standard := strings.NewReplacer("-", "+", "_", "/").Replace(part); standard != part {
			tt.refused(t, "the other alphabet", with(standard))
		}
		for _, last := range unusedBits(part) {
			tt.refused(t, "unused bits", with(part[:len(part)-1]+last))
		}
	}
	for name, field := range map[string]string{
		"quoted": `Bearer "` + token + `"`, "as a parameter": "Bearer token=" + token, "with a comma": "Bearer " + token + ",", "two": "Bearer " + token + " " + token,
		"other scheme": "Token " + token, "no scheme": token, "JWT scheme": "JWT " + token, "with a semicolon": "Bearer " + token + "; x=1",
	} {
		if a := ask(t, tt.Addr, rawRequest("GET /jwt/x HTTP/1.1", "Authorization: "+field)); a.Status != http.StatusUnauthorized {
			t.Errorf("%s: status %d", name, a.Status)
		}
	}
}

// unusedBits are the other last characters of an unpadded base64 text that a lax
// reader decodes to the same bytes.
func unusedBits(part string) []string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	free := map[int]int{2: 16, 3: 4}[len(part)%4] // values that the unused bits can have
	at := strings.IndexByte(alphabet, part[len(part)-1])
	var others []string
	for i := range free {
		if c := at/free*free + i; c != at {
			others = append(others, alphabet[c:c+1])
		}
	}
	return others
}

// JWT-23: no part of a token is good for anything, wherever it is cut.
func TestCutTokensAreRefused(t *testing.T) {
	p := apptest.Start(t, apptest.Options{Set: roomy()})
	u := p.User(t)
	for i := 1; i < len(u.Token); i++ {
		for _, cut := range []string{u.Token[:i], u.Token[i:], u.Token[:i-1] + u.Token[i:]} {
			a := p.Call(t, "GET", "/api/test", nil, "Authorization", "Bearer "+cut)
			if a.Status != http.StatusUnauthorized {
				t.Fatalf("cut at %d: status %d: %s", i, a.Status, a.Body)
			}
		}
	}
	p.Want(t, http.StatusOK, "GET", "/api/test", nil, u.Auth()...)
}

// JWT-20, JWT-21: what is done to a user holds for his live tokens at once here,
// and very soon on another replica; behind the gateway as on the platform.
func TestLiveTokensFollowTheirUser(t *testing.T) {
	p, up := startBehind(t, apptest.Options{Set: roomy()})
	replica := apptest.Start(t, apptest.Options{
		DatabaseURL: p.DatabaseURL, MasterKey: p.MasterKey, Set: roomy(), Gateway: fixtureDocument(t, up.Addr()),
	})
	admin := p.Admin(t)
	everywhere := func(t *testing.T, credential []string, path string, want int) {
		t.Helper()
		if a := p.Call(t, "GET", path, nil, credential...); a.Status != want {
			t.Errorf("%s at once: status %d, want %d: %s", path, a.Status, want, a.Body)
		}
		apptest.Eventually(t, "the other replica follows", func() bool {
			return replica.Call(t, "GET", path, nil, credential...).Status == want
		})
	}
	warm := func(t *testing.T, u *apptest.User, k apptest.Key) {
		t.Helper()
		for _, program := range []*apptest.Program{p, replica} {
			program.Want(t, http.StatusOK, "GET", "/jwt/x", nil, u.Auth()...)
			program.Want(t, http.StatusOK, "GET", "/keyed/x", nil, k.Auth()...)
			program.Want(t, http.StatusOK, "GET", "/api/test", nil, u.Auth()...)
		}
	}
	for name, do := range map[string]func(t *testing.T, u *apptest.User){
		"deleted": func(t *testing.T, u *apptest.User) {
			p.Want(t, http.StatusNoContent, "DELETE", "/users/"+u.ID, nil, admin.Auth()...)
		},
		"disabled": func(t *testing.T, u *apptest.User) {
			p.Want(t, http.StatusOK, "PATCH", "/users/"+u.ID, object{"disabled": true}, admin.Auth()...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			u := p.User(t)
			k := p.Key(t, u, nil)
			warm(t, u, k)
			do(t, u)
			everywhere(t, u.Auth(), "/jwt/x", http.StatusUnauthorized)
			everywhere(t, u.Auth(), "/api/test", http.StatusUnauthorized)
			everywhere(t, u.Auth(), "/users/me", http.StatusUnauthorized)
			everywhere(t, k.Auth(), "/keyed/x", http.StatusUnauthorized)
			p.Want(t, http.StatusUnauthorized, "POST", "/auth/refresh", object{"refresh_token": u.Refresh})
		})
	}
	t.Run("enabled again", func(t *testing.T) {
		u := p.User(t)
		k := p.Key(t, u, nil)
		warm(t, u, k)
		for _, disabled := range []bool{true, false} {
			p.Want(t, http.StatusOK, "PATCH", "/users/"+u.ID, object{"disabled": disabled}, admin.Auth()...)
		}
		everywhere(t, u.Auth(), "/jwt/x", http.StatusUnauthorized) // disabling has ended the sessions for good
		everywhere(t, k.Auth(), "/keyed/x", http.StatusOK)
	})
	t.Run("demoted", func(t *testing.T) {
		u := p.Admin(t)
		k := p.Key(t, u, object{"scopes": []string{"users:read", "profile:read"}})
		warm(t, u, k)
		for _, program := range []*apptest.Program{p, replica} {
			program.Want(t, http.StatusOK, "GET", "/users", nil, u.Auth()...)
			program.Want(t, http.StatusOK, "GET", "/users", nil, k.Auth()...)
		}
		p.Want(t, http.StatusOK, "PATCH", "/users/"+u.ID, object{"role": "user"}, admin.Auth()...)
		everywhere(t, u.Auth(), "/users", http.StatusForbidden)
		everywhere(t, u.Auth(), "/audit", http.StatusForbidden)
		everywhere(t, k.Auth(), "/users", http.StatusForbidden)
		everywhere(t, u.Auth(), "/users/me", http.StatusOK)
		everywhere(t, k.Auth(), "/users/me", http.StatusOK)
		got := forwarded(t, p, up, rawRequest("GET /jwt/x HTTP/1.1", "Authorization: Bearer "+u.Token))
		if role := fieldValues(got, "X-Consumer-Role"); len(role) != 1 || role[0] != "user" {
			t.Errorf("the backend was told the role %q", role)
		}
	})
	t.Run("signed out", func(t *testing.T) {
		u := p.User(t)
		warm(t, u, p.Key(t, u, nil))
		p.Want(t, http.StatusNoContent, "POST", "/auth/logout", nil, u.Auth()...)
		everywhere(t, u.Auth(), "/jwt/x", http.StatusUnauthorized)
	})
}

// A token of another platform with the same names is a stranger's.
func TestTokenOfAnotherPlatformIsRefused(t *testing.T) {
	ours, theirs := apptest.Start(t, apptest.Options{}), apptest.Start(t, apptest.Options{})
	u := theirs.User(t)
	k := theirs.Key(t, u, nil)
	ours.Want(t, http.StatusUnauthorized, "GET", "/api/test", nil, u.Auth()...)
	ours.Want(t, http.StatusUnauthorized, "GET", "/api/test", nil, k.Auth()...)
}
