package session

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/access"
)

func TestIssuedTokenIsAccepted(t *testing.T) {
	c := newClock()
	s := readySigner(t, c)
	token, ttl, err := s.Sign(testUser, sessionAt(c.now()))
	if err != nil || ttl != testTTL {
		t.Fatal(ttl, err)
	}
	got, err := s.parse(token.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	now := c.now().Unix()
	want := &claims{
		Issuer: testIssuer, Subject: testUser.ID, Audience: testAudience, Expires: now + int64(testTTL/time.Second),
		NotBefore: now, IssuedAt: now, ID: got.ID, Session: testSession, Role: "user",
		Scope: "apps:read apps:write keys:read keys:write orders:read profile:read profile:write usage:read",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if another := issue(t, s); another == token.Reveal() {
		t.Error("two tokens are the same")
	}
}

func TestTokenNeverOutlivesItsSession(t *testing.T) {
	c := newClock()
	s := readySigner(t, c)
	ending := sessionAt(c.now())
	ending.ExpiresAt = c.now().Add(90*time.Second + 700*time.Millisecond)
	token, ttl, err := s.Sign(testUser, ending)
	if err != nil || ttl != 90*time.Second {
		t.Error(ttl, err)
	}
	if got, err := s.parse(token.Reveal()); err != nil || got.Expires != c.now().Unix()+90 {
		t.Errorf("%+v, %v", got, err)
	}
}

// damaged is every wrong token, by what is wrong with it (JWT-16, JWT-18 among
// others).
func damaged(f forger) map[string]string {
	good := f.token(f.header(), f.claims())
	head, rest, _ := strings.Cut(good, ".")
	body, sig, _ := strings.Cut(rest, ".")
	now := f.signer.opts.Now().Unix()
	private := f.signer.keys.Load().private
	public := private.Public().(ed25519.PublicKey) //nolint:forcetypeassert // documented type
	bad := map[string]string{"empty": "", "a word": "token", "only dots": ".."}

	header := func(name string, value any) { bad["header "+name] = f.token(value, f.claims()) }
	claim := func(name string, value any) { bad["claims "+name] = f.token(f.header(), value) }

	for _, alg := range []string{"none", "None", "NONE", "nOnE", ""} {
		h := f.header().with("alg", alg)
		bad["alg "+alg+" without signature"] = b64(f.json(h)) + "." + body + "."
		header("alg "+alg+" with a good signature", h)
	}
	for _, alg := range []any{"HS256", "RS256", "ES256", "Ed25519", "EDDSA", "eddsa", 1, nil, []string{"EdDSA"}} {
		header(fmt.Sprint("alg ", alg), f.header().with("alg", alg))
	}
	header("without alg", f.header().without("alg"))
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		f.t.Fatal(err)
	}
	block := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	for name, secret := range map[string]string{
		"raw": string(public), "PEM": block, "PEM without newline": strings.TrimSpace(block), "DER": string(der),
		"x of the JWK": base64.RawURLEncoding.EncodeToString(public), "nothing": "",
	} {
		input := b64(f.json(f.header().with("alg", "HS256"))) + "." + body
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(input))
		bad["HS256 under the public key as "+name] = input + "." + b64(string(mac.Sum(nil)))
	}

	attacker := ed25519.NewKeyFromSeed([]byte("another seed of thirty-two bytes"))
	theirs := newJWK("theirs", attacker.Public().(ed25519.PublicKey)) //nolint:forcetypeassert // documented type
	for name, h := range map[string]object{
		"embedded jwk": f.header().with("jwk", theirs), "embedded jwk and its kid": f.header().with("jwk", theirs).with("kid", "theirs"),
		"embedded jwk instead of kid": f.header().without("kid").with("jwk", theirs), "of another signer": f.header(),
	} {
		input := b64(f.json(h)) + "." + body
		bad["signature: "+name] = input + "." + b64(string(ed25519.Sign(attacker, []byte(input))))
	}
	for name, value := range map[string]any{
		"jwk": theirs, "jku": "https://attacker.example/jwks.json", "x5u": "https://attacker.example/cert.pem", "x5c": []string{"AAAA"},
		"x5t": "AAAA", "crit": []string{"b64"}, "b64": false, "cty": "JWT", "zip": "DEF", "unknown": 1,
	} {
		header("with "+name, f.header().with(name, value))
	}
	unencoded := f.header().with("b64", false).with("crit", []string{"b64"})
	header("b64 and crit", unencoded)
	bad["unencoded payload"] = f.sign(b64(f.json(unencoded)) + "." + f.json(f.claims()))
	header("crit in place of kid", f.header().without("kid").with("crit", []string{}))
	for name, kid := range map[string]any{
		"traversal": "../../../../dev/null", "absolute": "/dev/null", "SQL": "' OR '1'='1' --", "NUL": "\x00", "empty": "",
		"NUL after": f.signer.keys.Load().signing + "\x00", "upper case": strings.ToUpper(f.signer.keys.Load().signing),
		"space": f.signer.keys.Load().signing + " ", "10 kB": strings.Repeat("k", 10_000), "number": 1, "null": nil,
		"list": []string{f.signer.keys.Load().signing}, "URL": "https://attacker.example/key",
	} {
		header("kid "+name, f.header().with("kid", kid))
	}
	header("without kid", f.header().without("kid"))
	for _, typ := range []any{"JWT", "jwt", "id_token", "logout+jwt", "at+JWT", "AT+JWT", "application/at+jwt", "at+jwt ", "", nil, 1} {
		header(fmt.Sprintf("typ %q", fmt.Sprint(typ)), f.header().with("typ", typ))
	}
	header("without typ", f.header().without("typ"))
	for name, raw := range map[string]string{"list": `[]`, "null": `null`, "broken": `{"alg":"EdDSA"`, "text": `"EdDSA"`, "nothing": ``} {
		header("that is "+name, raw)
		claim("that are "+name, raw)
	}

	for name, raw := range map[string]string{
		"string": fmt.Sprintf(`"%d"`, now+600), "float": fmt.Sprintf("%d.5", now+600), "whole float": fmt.Sprintf("%d.0", now+600),
		"exponent": "1e10", "null": "null", "negative": "-1", "zero": "0", "1e308": "1e308", "1e400": "1e400", "-1e308": "-1e308",
		"beyond int64": "9223372036854775808", "true": "true", "list": fmt.Sprintf("[%d]", now+600), "object": "{}", "past": fmt.Sprint(now - 3600),
		"least int64": "-9223372036854775808",
	} {
		encoded := f.json(f.claims().with("exp", "EXP"))
		claim("exp "+name, strings.Replace(encoded, `"EXP"`, raw, 1))
	}
	for name, raw := range map[string]string{"string": `"1"`, "future": fmt.Sprint(now + 3600), "1e308": "1e308", "true": "true"} {
		claim("nbf "+name, strings.Replace(f.json(f.claims().with("nbf", "NBF")), `"NBF"`, raw, 1))
		claim("iat "+name, strings.Replace(f.json(f.claims().with("iat", "IAT")), `"IAT"`, raw, 1))
	}
	for _, name := range []string{"exp", "nbf", "iat", "iss", "aud", "sub", "sid", "jti"} {
		claim("without "+name, f.claims().without(name))
		claim("null "+name, f.claims().with(name, nil))
	}
	for _, name := range []string{"iss", "aud", "sub", "sid", "jti"} {
		claim("empty "+name, f.claims().with(name, ""))
		claim("number as "+name, f.claims().with(name, 1))
	}
	for _, iss := range []string{"https://attacker.example", testIssuer + "/", strings.ToUpper(testIssuer), testIssuer + "\x00", "https://keywarden"} {
		claim("iss "+iss, f.claims().with("iss", iss))
	}
	for _, aud := range []any{"another", testAudience + " ", "KEYWARDEN", []string{"another"}, []string{}, []string{"another", testAudience}} {
		claim(fmt.Sprint("aud ", aud), f.claims().with("aud", aud))
	}

	for name, pad := range map[string]func(part string) string{
		"padded": func(p string) string { return p + strings.Repeat("=", (4-len(p)%4)%4+4*btoi(len(p)%4 == 0)) },
		"equals": func(p string) string { return p + "=" }, "space": func(p string) string { return p + " " },
		"space before": func(p string) string { return " " + p }, "newline": func(p string) string { return p + "\n" },
		"newline within": func(p string) string { return p[:4] + "\n" + p[4:] }, "return within": func(p string) string { return p[:4] + "\r\n" + p[4:] },
		"tab": func(p string) string { return p[:4] + "\t" + p[4:] }, "NUL": func(p string) string { return p + "\x00" },
		"another alphabet": func(p string) string { return p[:4] + "+" + p[5:] }, "slash": func(p string) string { return p[:4] + "/" + p[5:] },
		"percent": func(p string) string { return strings.Replace(p, p[:1], fmt.Sprintf("%%%02X", p[0]), 1) }, "full stop": func(p string) string { return p + "。" },
		"letter of another script": func(p string) string { return p + "а" }, "one character more": func(p string) string { return p + "A" },
		"cut": func(p string) string { return p[:len(p)-1] }, "cut to nothing": func(string) string { return "" },
	} {
		bad["header part: "+name] = pad(head) + "." + body + "." + sig
		bad["claims part: "+name] = head + "." + pad(body) + "." + sig
		bad["signature part: "+name] = head + "." + body + "." + pad(sig)
		bad["signed header part: "+name] = f.sign(pad(head) + "." + body)
		bad["signed claims part: "+name] = f.sign(head + "." + pad(body))
	}
	for name, part := range map[string]string{"header": head, "claims": body} {
		if unused := unusedBits(part); unused != "" {
			input := strings.Replace(head+"."+body, part, unused, 1)
			bad["unused bits in signed "+name] = f.sign(input)
		}
	}
	bad["unused bits in signature"] = head + "." + body + "." + unusedBits(sig)
	standard := base64.RawStdEncoding.EncodeToString([]byte(f.json(f.claims().with("scope", "???>>>"))))
	if !strings.ContainsAny(standard, "+/") {
		f.t.Fatal("the example does not use the other alphabet")
	}
	bad["standard alphabet"] = f.sign(head + "." + standard)

	for n := 1; n <= len(good); n++ {
		bad[fmt.Sprintf("cut by %d", n)] = good[:len(good)-n]
		bad[fmt.Sprintf("cut by %d at the front", n)] = good[n:]
	}
	raw, err := base64.RawURLEncoding.DecodeString(sig)
	if err != nil {
		f.t.Fatal(err)
	}
	for n := range raw {
		bad[fmt.Sprintf("signature of %d bytes", n)] = head + "." + body + "." + b64(string(raw[:n]))
	}
	for bit := range 8 * len(raw) {
		flipped := slices.Clone(raw)
		flipped[bit/8] ^= 1 << (bit % 8)
		bad[fmt.Sprintf("signature with bit %d flipped", bit)] = head + "." + body + "." + b64(string(flipped))
	}
	bad["signature of zeros"] = head + "." + body + "." + b64(string(make([]byte, 64)))
	bad["signature plus the order"] = head + "." + body + "." + b64(string(addOrder(raw)))
	bad["signature twice"] = head + "." + body + "." + b64(string(raw)+string(raw))
	for name, token := range map[string]string{
		"one part": head, "two parts": head + "." + body, "four parts": good + ".AAAA", "five parts": good + ".AAAA.AAAA",
		"four parts, one empty": good + ".", "empty first part": "." + good, "three empty parts": "..", "JWE": "a.b.c.d.e",
		"no header": "." + body + "." + sig, "no claims": head + ".." + sig, "no signature": head + "." + body + ".",
		"nested": f.token(f.header().with("cty", "JWT"), `"`+good+`"`), "as bearer": "Bearer " + good, "quoted": `"` + good + `"`,
		"twice": good + good, "twice with a space": good + " " + good, "with a comma": good + "," + good,
		"too long": f.token(f.header(), f.claims().with("scope", strings.Repeat("a", maxTokenBytes))),
	} {
		bad[name] = token
	}
	return bad
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// unusedBits sets a bit that decoders are free to ignore, if there is one.
func unusedBits(part string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	if len(part)%4 == 0 {
		return ""
	}
	last := strings.IndexByte(alphabet, part[len(part)-1])
	return part[:len(part)-1] + string(alphabet[last|1])
}

// addOrder adds the order of the group to the scalar of an Ed25519 signature:
// the same signature in a second spelling, to those who do not look.
func addOrder(signature []byte) []byte {
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	scalar := slices.Clone(signature[32:])
	slices.Reverse(scalar)
	sum := new(big.Int).Add(new(big.Int).SetBytes(scalar), order)
	out := sum.FillBytes(make([]byte, 32))
	slices.Reverse(out)
	return append(slices.Clone(signature[:32]), out...)
}

func TestDamagedTokenIsRefused(t *testing.T) {
	c := newClock()
	f := forger{t, readySigner(t, c)}
	good := f.token(f.header(), f.claims())
	if _, err := f.signer.parse(good); err != nil {
		t.Fatal("what the others differ from: ", err)
	}
	v, _ := newTestVerifier(t, f.signer, c)
	tokens := damaged(f)
	for range 2 { // cold and with the good one in the cache
		for name, token := range tokens {
			if got, err := f.signer.parse(token); err == nil {
				t.Errorf("%s: accepted as %+v", name, got)
			}
			if p, err := v.VerifyToken(t.Context(), token); !isRefusal(err) || p != nil {
				t.Errorf("%s: %v, %v", name, p, err)
			}
		}
		if _, err := v.VerifyToken(t.Context(), good); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d tokens", len(tokens))
}

func TestTimesOfTokensHaveLeewayAndNoMore(t *testing.T) {
	const second = time.Second
	for _, c := range []struct {
		name   string
		change func(o object, now int64) object
		want   bool
	}{
		{"expired just within", func(o object, now int64) object { return o.with("exp", now-29) }, true},
		{"expired just beyond", func(o object, now int64) object { return o.with("exp", now-30) }, false},
		{"not yet just within", func(o object, now int64) object { return o.with("nbf", now+30) }, true},
		{"not yet just beyond", func(o object, now int64) object { return o.with("nbf", now+31) }, false},
		{"issued just within", func(o object, now int64) object { return o.with("iat", now+30) }, true},
		{"issued just beyond", func(o object, now int64) object { return o.with("iat", now+31) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			clock := newClock()
			f := forger{t, readySigner(t, clock)}
			v, _ := newTestVerifier(t, f.signer, clock)
			_, err := v.VerifyToken(t.Context(), f.token(f.header(), c.change(f.claims(), clock.now().Unix())))
			if (err == nil) != c.want || err != nil && !isRefusal(err) {
				t.Errorf("error %v", err)
			}
		})
	}
	clock := newClock()
	f := forger{t, readySigner(t, clock)}
	v, _ := newTestVerifier(t, f.signer, clock)
	token := issue(t, f.signer)
	for _, step := range []struct {
		wait time.Duration
		want bool
	}{{0, true}, {testTTL - second, true}, {second, true}, {testLeeway - second, true}, {second - 1, true}, {1, false}, {time.Hour, false}} {
		clock.advance(step.wait)
		if _, err := v.VerifyToken(t.Context(), token); (err == nil) != step.want {
			t.Errorf("a cached token after %v: %v", clock.now().Sub(newClock().now()), err)
		}
	}
}

var threeParts = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)

func FuzzCompactJWS(f *testing.F) {
	c := newClock()
	for _, token := range damaged(forger{f, fixedSigner(f, c)}) {
		f.Add(token)
	}
	f.Add("a.b.c")
	f.Add("a.b.c\n")
	f.Fuzz(func(t *testing.T, token string) {
		want := len(token) <= maxTokenBytes && threeParts.MatchString(token) && !strings.HasSuffix(token, "\n")
		if got := compactJWS(token); got != want {
			t.Errorf("%q: %v", token, got)
		}
	})
}

func FuzzVerifyToken(f *testing.F) {
	c := newClock()
	forge := forger{f, fixedSigner(f, c)}
	good := forge.token(forge.header(), forge.claims())
	for _, token := range damaged(forge) {
		f.Add(token)
	}
	v, _ := newTestVerifier(f, forge.signer, c)
	if _, err := v.VerifyToken(context.Background(), good); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := v.VerifyToken(context.Background(), token); token != good && !isRefusal(err) {
			t.Errorf("%q: error %v", token, err)
		}
	})
}

func BenchmarkVerifyTokenWarm(b *testing.B) {
	c := newClock()
	s := readySigner(b, c)
	v, _ := newTestVerifier(b, s, c)
	token := issue(b, s)
	if _, err := v.VerifyToken(context.Background(), token); err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if p, err := v.VerifyToken(ctx, token); err != nil || p.Kind != access.KindUser {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyTokenCold(b *testing.B) {
	c := newClock()
	s := readySigner(b, c)
	token := issue(b, s)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.parse(token); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyTokenForged(b *testing.B) {
	c := newClock()
	f := forger{b, readySigner(b, c)}
	good := f.token(f.header(), f.claims())
	token := good[:len(good)-10] + "AAAAAAAAAA"
	v, _ := newTestVerifier(b, f.signer, c)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.VerifyToken(ctx, token); err == nil {
			b.Fatal("accepted")
		}
	}
}
