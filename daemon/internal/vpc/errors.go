package vpc

import "errors"

// EC2Kind is the reaction that an EC2 error needs.
type EC2Kind int

const (
	// EC2Unknown means: it may or may not have been done; Describe will tell.
	EC2Unknown EC2Kind = iota
	// EC2NotSent means: the call did not reach EC2.
	EC2NotSent
	// EC2Throttled means: call less often. Nothing was done, nor for the kinds below.
	EC2Throttled
	// EC2Forbidden means: the permission is missing.
	EC2Forbidden
	// EC2Unauthenticated means: EC2, or STS before it, does not accept the caller.
	EC2Unauthenticated
	// EC2Limit means: the instance type has no more for this ENI.
	EC2Limit
	// EC2SubnetFull means: the subnet has no more.
	EC2SubnetFull
	// EC2Refused means: it was not done, for another reason.
	EC2Refused
)

// EC2Error is a failed call.
type EC2Error struct {
	Kind EC2Kind
	// Code is Service's error code, "" without one. Service is EC2's or STS's name in the SDK, "" if the call reached neither.
	Code, Service string
	// Status is the HTTP status; 0 without an answer.
	Status int
	// Err names the call.
	Err error
}

func (e *EC2Error) Error() string { return e.Err.Error() }

func (e *EC2Error) Unwrap() error { return e.Err }

// ErrOtherService means: an answer is not EC2's.
var ErrOtherService = errors.New("the answer is not EC2's")

// ErrNoENIs means: EC2 knows no ENI of an instance, which has a primary one.
var ErrNoENIs = errors.New("EC2 knows no ENI of this instance, not even the primary one")

const (
	remedyPolicy = "give the role the policy deploy/iam/multi-enid.json, by EKS Pod Identity or IRSA (docs/addresses.md)"
	remedyKey    = "EC2 does not know the access key, or not in this region: see AWS_ACCESS_KEY_ID, the role of Pod Identity or IRSA, and AWS_REGION"
	remedyTrust  = "the role does not let the daemon be it: correct its trust policy, which must name the cluster's OIDC provider and the ServiceAccount " +
		"(docs/addresses.md)"
	remedyWay = "credentials come by EKS Pod Identity, by IRSA or from the instance's role (docs/addresses.md); from a private subnet EC2 is reached by a " +
		"NAT gateway or the VPC endpoint ec2"
	remedyOther = "a proxy or another service answers: see AWS_ENDPOINT_URL_EC2, HTTPS_PROXY and AWS_REGION"
	remedyLater = "ask again later"
)

// Remedy is the way out, for a message.
func (e *EC2Error) Remedy() string {
	switch e.Code {
	case "RequestExpired":
		return "the machine's clock is wrong by more than 15 minutes: see chronyc tracking or timedatectl"
	case "SignatureDoesNotMatch", "IncompleteSignature":
		return "the secret key is not the access key's, a proxy changes requests, or the clock is wrong: see AWS_SECRET_ACCESS_KEY, HTTPS_PROXY and timedatectl"
	case "ExpiredToken", "ExpiredTokenException":
		return "the session has ended, and nobody renews it: take credentials from Pod Identity, IRSA or the instance's role, not from a fixed AWS_SESSION_TOKEN"
	case "OptInRequired":
		return "the account has not been signed up for EC2, or not for this region: see AWS_REGION"
	}
	switch {
	case e.Service == "STS" && (e.Kind == EC2Unauthenticated || e.Kind == EC2Forbidden):
		return remedyTrust
	case e.Kind == EC2Forbidden:
		return remedyPolicy
	case e.Kind == EC2Unauthenticated:
		return remedyKey
	case errors.Is(e.Err, ErrNoENIs):
		return "check AWS_REGION, AWS_ENDPOINT_URL_EC2 and the account of the role"
	case errors.Is(e.Err, ErrOtherService):
		return remedyOther
	case e.Status/100 == 3: // a redirect
		return "EC2 of this region is elsewhere: see AWS_REGION and AWS_ENDPOINT_URL_EC2"
	case e.Code == "" && e.Status != 0:
		return remedyOther + "; it may also pass"
	case e.Code == "":
		return remedyWay
	}
	return remedyLater
}
