package awsnode

import (
	"context"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"golang.org/x/time/rate"
)

// How often IMDS is asked. Every HTTP request counts.
//
// Asking again, tokens and further attempts included, is at most
// againBurst + againRate*T requests in any T seconds, and one more for a token: 50 in
// any 10 s, 5 a second.
//
// Besides, each interface is read once when IMDS first lists it, with eniRequests at
// most. firstBurst is for the interfaces of the largest instance; one that
// comes and goes for ever gets no more than firstRate.
//
// paceRate bounds both: IMDS drops packets above 1,024 a second, a limit that it
// shares with the VPC's DNS, and a request takes three ("Query throttling" in the
// EC2 user guide, "DNS quotas" in the VPC user guide).
const (
	againBurst, againRate = 29, 2
	firstBurst, firstRate = maxInterfaces * eniRequests, 1
	paceBurst, paceRate   = 100, 300

	// eniRequests is the number of requests for all keys of an interface.
	eniRequests = 15
	// maxInterfaces is how many interfaces the largest instance types have (p5.48xlarge).
	maxInterfaces = 64
	// refreshRequests are the most for the changeable keys of an interface.
	refreshRequests = 6
	// spareRequests are kept for the interfaces that somebody waits for.
	spareRequests = 8
)

// budget counts the requests to IMDS. It never refuses one: whoever wants to ask
// looks at left first. Safe for concurrent use.
type budget struct {
	client             imds.HTTPClient
	again, first, pace *rate.Limiter
	now                func() time.Time
}

func newBudget(client imds.HTTPClient, now func() time.Time) *budget {
	return &budget{
		client: client, now: now, again: rate.NewLimiter(againRate, againBurst), first: rate.NewLimiter(firstRate, firstBurst), pace: rate.NewLimiter(paceRate,
			paceBurst),
	}
}

// askingAgain marks a context whose requests count as asking again.
type askingAgain struct{}

func again(ctx context.Context) context.Context { return context.WithValue(ctx, askingAgain{}, true) }

func (b *budget) of(ctx context.Context) *rate.Limiter {
	if ctx.Value(askingAgain{}) != nil {
		return b.again
	}
	return b.first
}

// left is how many requests of the context's kind may be made now; less than one
// when more were made already.
func (b *budget) left(ctx context.Context) int { return int(b.of(ctx).TokensAt(b.now())) }

// Do implements imds.HTTPClient.
func (b *budget) Do(r *http.Request) (*http.Response, error) {
	if err := b.pace.Wait(r.Context()); err != nil {
		return nil, err
	}
	limiter := b.of(r.Context())
	if r.Method == http.MethodPut { // a token
		limiter = b.again
	}
	limiter.ReserveN(b.now(), 1)
	return b.client.Do(r)
}
