# English. The same keys as in ../id; a test compares the two.

skip = Skip to content
nav-main = Main
nav-crumbs = You are here
nav-lessons = Lessons
nav-courses = Courses
nav-mine = My learning
nav-studio = Studio
sign-in = Sign in
sign-out = Sign out
footer-contact = Contact
footer-help = Help
footer-social = Follow us
footer-language = Language

hero-title = Learn what moves you forward
hero-text = { $name } brings its courses to you: clear lessons, at your pace, on any device.
search = Search
search-label = Search courses
search-placeholder = What do you want to learn?
browse-all = All courses
number-courses = courses
number-lessons = lessons
number-subjects = subjects
number-learners = learners
home-subjects = Explore by subject
home-newest = Newest courses
home-empty = The first courses are being prepared. Please come back soon.
steps-title = How learning works here
step-choose = Choose a course
step-choose-more = Look through the outline first, then enrol with one click.
step-learn = Learn at your pace
step-learn-more = Text, pictures, videos and files, on your phone or computer. You go on where you stopped.
step-finish = See how far you are
step-finish-more = Mark each lesson as done and follow your progress up to the end of the course.

catalogue = Courses
filter-subject = Subject
filter-level = Level
filter-all = All
catalogue-empty = No course matches. Try other words or another subject.
pages = Pages
previous = Previous
next = Next

level-beginner = Beginner
level-intermediate = Intermediate
level-advanced = Advanced
lessons = { $count ->
    [one] { $count } lesson
   *[other] { $count } lessons
}
hours = { $count ->
    [one] About { $count } hour
   *[other] About { $count } hours
}
courses = { $count ->
    [one] { $count } course
   *[other] { $count } courses
}
learners = { $count ->
    [one] { $count } learner
   *[other] { $count } learners
}
in-indonesian = In Indonesian
in-english = In English

free = Free
by-subscription = With a subscription
enrol = Enrol for free
enrol-ask = Ask to join
enrol-sign-in = Sign in to enrol
enrol-pending = You have asked to join. The instructor will decide.
enrol-rejected = Your request was not accepted.
enrol-paused = Your access is paused because your subscription has ended.
enrol-unpublished = This course is not open for enrolment.
enrol-not-free = “{ $about }” is not free, and cannot be bought here yet. Please contact us.
enrol-restricted = “{ $about }” is by invitation. Please contact the instructor.
enrol-full = All seats in “{ $about }” are taken.
seats-left = { $count ->
    [one] { $count } seat left
   *[other] { $count } seats left
}
continue = Continue
start = Start learning
again = Read again
preview = Preview the lessons
preview-notice = You see this lesson as its maker. Nothing is recorded.
course-home = Course overview
about-course = About this course
outline = Course outline
outline-empty = There are no lessons yet.
teacher = Instructor
updated = Updated { $date }
kind-videos = { $count ->
    [one] { $count } video
   *[other] { $count } videos
}
kind-images = { $count ->
    [one] { $count } picture
   *[other] { $count } pictures
}
kind-files = { $count ->
    [one] { $count } file to download
   *[other] { $count } files to download
}
leave = Leave this course
leave-more = You can come back later. What you have done is kept.
leave-confirm = Yes, leave

progress = Progress
progress-percent = { $percent }% done
progress-lessons = { $done } of { $all } lessons
progress-short = { $done }/{ $all }
minutes = { $count ->
    [one] { $count } minute of study
   *[other] { $count } minutes of study
}
course-done = You have finished this course. Well done!
mine-empty = You are not in any course yet.
state-pending = Waiting for approval
state-completed = Finished
state-paused = Paused
state-rejected = Not accepted
status-draft = Draft
status-published = Published
status-archived = Archived

done = Done
lesson-done = You have finished this lesson.
lesson-rule = This lesson counts as finished when you mark it.
lesson-empty = This lesson is still empty.
mark-done = Mark as done
transcript = Transcript
video-host = This video plays from { $host }.

sign-in-title = Welcome back
sign-in-text = Sign in to { $name }.
sign-in-failed = The email address or the password is wrong.
sign-in-help = Trouble signing in?
email = Email address
password = Password
password-new = New password
password-again = The same password again
password-rule = At least { $count } characters. Several words are good.
password-too-short = The password needs at least { $count } characters.
password-too-long = The password is too long.
password-too-simple = The password is too easy to guess. Use several words.
passwords-differ = The two passwords are not the same.
invitation = Invitation
invitation-title = Welcome, { $name }
invitation-more = Choose a password for your account at { $site }.
invitation-accept = Save and sign in
invitation-expired = This invitation can no longer be used
invitation-expired-more = It was used already, or its time is over. Sign in, or ask for a new invitation.

studio-title = Your courses
studio-empty = No course yet. Bring in the first one below.
storage = Storage
storage-of = { $used } of { $most } used
storage-used = { $used } used
open-page = Course page
asking = { $count ->
    [one] { $count } request to join
   *[other] { $count } requests to join
}
approve = Accept
reject = Reject
reject-reason = Reason, shown to the learner
import = Import
import-title = Import a course
import-more = A description in JSON and the files that it names. The course is made whole, or not at all.
import-course = Description (JSON)
import-files = Files
upload = Add a file
upload-more = Add pictures, videos and documents of up to { $size } to a lesson.
upload-title = Title
upload-alt = What the picture shows (for pictures)
upload-file = File

preview-label = About this preview
preview-banner = This is a preview. Nothing can be changed.
preview-moment = The site as it was at
preview-until = Can be seen until
preview-no-courses = There was no course.

error-home = To the home page
error-number = Number of this request:
error-not-found-title = Page not found
error-not-found-text = This page does not exist, or you are not allowed to see it.
error-forbidden-title = Not allowed
error-forbidden-text = Your account is not allowed to do this.
error-sign-in-title = Please sign in
error-sign-in-text = You have to sign in to see this page.
error-csrf-title = This form is no longer valid
error-csrf-text = Go back, reload the page and send the form again. Nothing was changed.
error-invalid-title = This could not be used
error-invalid-text = Something that was sent is not valid.
error-conflict-title = This cannot be done now
error-conflict-text = It collides with something that is there already.
error-too-large-title = Too large
error-too-large-text = What was sent is too large.
error-too-large-limit = What was sent is too large. At most { $size } are allowed.
error-storage-full-title = The storage is full
error-storage-full-text = There is no room for this file. Please contact your administrator.
error-throttled-title = Too many attempts
error-throttled-text = Please wait a few minutes and try again.
error-range-title = No such part
error-range-text = The file is shorter than what was asked for.
error-misdirected-title = Please try again
error-misdirected-text = The request reached the wrong place. Please load the page again.
error-unavailable-title = Back in a moment
error-unavailable-text = A part of this site does not answer right now. Please try again in a few seconds.
error-preview-closed-title = This is a preview
error-preview-closed-text = It shows an institution’s site as it was at some moment, and only to those for whom it was made. Open the link that you were given.
error-preview-over-title = This preview is over
error-preview-over-text = Its time has passed, and it cannot be seen any more. If it is still needed, ask for a new one.
error-preview-read-only-title = Nothing can be changed in a preview
error-preview-read-only-text = A preview can only be looked at. What you sent was not done.
error-internal-title = Something went wrong
error-internal-text = This is our fault, and it has been noted. Please try again later.
invalid-form = The form could not be read: { $about }
invalid-language = There is no language “{ $about }” here.
invalid-file-type = “{ $about }” is of a kind that is not accepted. Send pictures, videos, audio, PDF, office documents, zip or plain text.
invalid-no-file = Choose a file first.
invalid-too-many-files = At most { $about } files can be sent at once.
invalid-bundle = The course description is not right: { $about }
conflict-slug = There is a course with the address “{ $about }” already.
conflict-courses = The site has as many courses as its plan allows.
