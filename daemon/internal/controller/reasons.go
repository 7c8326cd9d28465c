package controller

// Reasons of this package. Those of slots are in packages slots and lifecycle. docs/controller.md explains each.
const (
	otherController   = "OtherController"
	unreadableNodeENI = "UnreadableNodeENI"
)

// Events without a reason. The first ones have the public controller's names.
const (
	eventAttached         = "ENIAttached"
	eventDetached         = "ENIDetached"
	eventDeleted          = "ENIDeleted"
	eventAlreadyDeleted   = "ENIAlreadyDeleted"
	eventCreationFailed   = "ENICreationFailed"
	eventAttachmentFailed = "ENIAttachmentFailed"
	eventDetachmentFailed = "ENIDetachmentFailed"
	eventDeletionFailed   = "ENIDeletionFailed"
	eventStatusTruncated  = "StatusTruncated"
)
