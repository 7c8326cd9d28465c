// Package told names the reasons and the Events that are about no slot in particular, or that tell a success.
package told

import (
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/lifecycle"
)

// Reasons. Package slots and package lifecycle have the others. docs/controller.md explains each.
const (
	OtherController   = "OtherController"
	UnreadableNodeENI = "UnreadableNodeENI"
)

// Events without a reason. The first ones have the public controller's names.
const (
	ENIAttached         = "ENIAttached"
	ENIDetached         = "ENIDetached"
	ENIDeleted          = "ENIDeleted"
	ENIAlreadyDeleted   = "ENIAlreadyDeleted"
	ENICreationFailed   = "ENICreationFailed"
	ENIAttachmentFailed = "ENIAttachmentFailed"
	ENIDetachmentFailed = "ENIDetachmentFailed"
	ENIDeletionFailed   = "ENIDeletionFailed"
	StatusTruncated     = "StatusTruncated"
)

// Failed are the Events of the public controller about failed calls.
var Failed = map[lifecycle.Action]string{
	lifecycle.Create: ENICreationFailed, lifecycle.Attach: ENIAttachmentFailed, lifecycle.Detach: ENIDetachmentFailed,
	lifecycle.ForceDetach: ENIDetachmentFailed, lifecycle.Delete: ENIDeletionFailed,
}

// LeftBehind is the message of an Event Abandoned about these ENIs.
func LeftBehind(list []string) string {
	if len(list) == 0 {
		return "nothing is left behind"
	}
	slices.Sort(list)
	return "left behind, as the annotation says: " + strings.Join(list, ", ") + "; they are still drained and deleted if their nodes answer"
}
