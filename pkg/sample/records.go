package sample

import (
	"net/mail"
	"unicode"
	"unicode/utf8"

	"github.com/keywarden/keywarden/pkg/problem"
)

// Bounds of the records' members.
const (
	maxText  = 100 // characters of a name or a city
	maxEmail = 254 // bytes, as RFC 5321 leaves room for
	maxPrice = 100_000_000
	maxStock = 1_000_000
)

// user is a record of the user service.
type user struct {
	ID    int    `json:"id"`
	Name  string `json:"name"`
	Email string `json:"email"`
	City  string `json:"city"`
}

// seedUsers are the users that a new service has.
func seedUsers() []user {
	return []user{
		{Name: "Ada Lovelace", Email: "ada@example.com", City: "London"},
		{Name: "Katherine Johnson", Email: "katherine@example.com", City: "Hampton"},
		{Name: "Edsger Dijkstra", Email: "edsger@example.com", City: "Nuenen"},
		{Name: "Radia Perlman", Email: "radia@example.com", City: "Boston"},
		{Name: "Shafi Goldwasser", Email: "shafi@example.com", City: "Rehovot"},
	}
}

func (u user) identity() int                  { return u.ID }
func (u user) unique() (member, value string) { return "email", u.Email }
func (u user) members() []string              { return []string{"name", "email", "city"} }

func (u user) withIdentity(id int) user {
	u.ID = id
	return u
}

func (u user) check() []problem.Field {
	var wrong []problem.Field
	wrong = appendText(wrong, "name", u.Name)
	if parsed, err := mail.ParseAddress(u.Email); err != nil || parsed.Address != u.Email || len(u.Email) > maxEmail {
		wrong = append(wrong, problem.Field{Field: "email", Detail: "must be an e-mail address, such as ada@example.com"})
	}
	return appendText(wrong, "city", u.City)
}

// product is a record of the product service. Money is in the currency's
// smallest unit.
type product struct {
	ID         int    `json:"id"`
	Name       string `json:"name"`
	PriceCents int    `json:"price_cents"`
	Currency   string `json:"currency"`
	Stock      int    `json:"stock"`
}

// seedProducts are the products that a new service has.
func seedProducts() []product {
	return []product{
		{Name: "Field notebook", PriceCents: 1290, Currency: "EUR", Stock: 120},
		{Name: "Fountain pen", PriceCents: 4950, Currency: "EUR", Stock: 35},
		{Name: "Desk lamp", PriceCents: 7900, Currency: "EUR", Stock: 12},
		{Name: "Mechanical keyboard", PriceCents: 14900, Currency: "USD", Stock: 8},
		{Name: "Travel mug", PriceCents: 2400, Currency: "USD", Stock: 0},
	}
}

func (p product) identity() int                  { return p.ID }
func (p product) unique() (member, value string) { return "name", p.Name }
func (p product) members() []string              { return []string{"name", "price_cents", "currency", "stock"} }

func (p product) withIdentity(id int) product {
	p.ID = id
	return p
}

func (p product) check() []problem.Field {
	var wrong []problem.Field
	wrong = appendText(wrong, "name", p.Name)
	if p.PriceCents < 0 || p.PriceCents > maxPrice {
		wrong = append(wrong, problem.Field{Field: "price_cents", Detail: "must be between 0 and 100000000"})
	}
	if !isCurrency(p.Currency) {
		wrong = append(wrong, problem.Field{Field: "currency", Detail: "must be three capital letters, such as EUR"})
	}
	if p.Stock < 0 || p.Stock > maxStock {
		wrong = append(wrong, problem.Field{Field: "stock", Detail: "must be between 0 and 1000000"})
	}
	return wrong
}

// isCurrency reports whether s has the form of an ISO 4217 code.
func isCurrency(s string) bool {
	for _, c := range s {
		if c < 'A' || c > 'Z' {
			return false
		}
	}
	return len(s) == 3
}

// appendText adds what is wrong with a short printable text.
func appendText(wrong []problem.Field, member, value string) []problem.Field {
	visible := false
	for _, c := range value {
		if !unicode.IsPrint(c) {
			return append(wrong, problem.Field{Field: member, Detail: "must not have control characters"})
		}
		visible = visible || c != ' '
	}
	if !visible || utf8.RuneCountInString(value) > maxText {
		return append(wrong, problem.Field{Field: member, Detail: "must have 1 to 100 characters, not only blanks"})
	}
	return wrong
}
